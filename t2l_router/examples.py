"""The examples that tell a task, and the text under which an adapter written from them is kept."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

from adapters_store.names import MAX_DESCRIPTION_CHARS, text_hash
from t2l_router.errors import InvalidRequest

Pair = tuple[str, str]

MOST = 16
MAX_CHARS = 4_000  # of an input or an output
_MARK = re.compile(r"^(?P<text>.*?) ?\[(?P<n>\d+) examples?, [0-9a-f]{32}\]$", re.DOTALL)


def checked(pairs: Sequence[Pair], *, param: str = "t2l_examples") -> tuple[Pair, ...]:
    """
    Normalise examples: composed characters, plain line breaks, no space at the ends.

    Args:
        pairs: Inputs with their outputs.
        param: Where the caller gave them, for the error.

    Raises:
        InvalidRequest: There are none or too many, or a text is empty, too long or holds control
            characters.
    """
    if not 0 < len(pairs) <= MOST:
        raise InvalidRequest(f"{param}: give 1 to {MOST} examples, not {len(pairs)}", param=param)
    return tuple(
        (_text(text, f"{param}[{i}].input"), _text(output, f"{param}[{i}].output"))
        for i, (text, output) in enumerate(pairs)
    )


def label_of(text: str, pairs: Sequence[Pair]) -> str:
    """
    Name a task that examples tell, for the library; only equal tasks have equal names.

    Args:
        text: Its description, as much of it as the library takes; may be empty.
        pairs: Its examples, normalised. Their order counts: it is the one they are read in.
    """
    described = text_hash(text) if text else ""
    told = json.dumps([described, *pairs], ensure_ascii=False)
    plural = "s" if len(pairs) > 1 else ""
    mark = f"[{len(pairs)} example{plural}, {hashlib.sha256(told.encode()).hexdigest()[:32]}]"
    return f"{text[: MAX_DESCRIPTION_CHARS - len(mark) - 1].rstrip()} {mark}".lstrip()


def is_label(text: str) -> bool:
    """Whether the library takes a text for one that `label_of` gave."""
    return bool(_MARK.match(" ".join(unicodedata.normalize("NFKC", text).casefold().split())))


def headline(text: str) -> str:
    """What a list shows of a text that the library keeps: of a label, first that it is one."""
    found = _MARK.match(text)
    if found is None:
        return text
    count = f"{found['n']} example{'s' if found['n'] != '1' else ''}"
    return f"{count}: {found['text']}" if found["text"] else count


def wire_form(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Give examples as requests hold them."""
    return [{"input": text, "output": output} for text, output in pairs]


def _text(text: str, param: str) -> str:
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    normal = lines.strip()
    if not normal:
        raise InvalidRequest(f"{param} is empty", param=param)
    if len(normal) > MAX_CHARS:
        raise InvalidRequest(
            f"{param} has {len(normal):,} characters; the limit is {MAX_CHARS:,}", param=param
        )
    unsound = (c for c in normal if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
    if control := next(unsound, None):
        raise InvalidRequest(f"{param} holds the control character {control!r}", param=param)
    return normal
