"""Which names the library accepts, and when two descriptions are the same text."""

import hashlib
import re
import unicodedata

from adapters_store.errors import InvalidName

SHARED = "shared"
"""The tenant whose adapters every tenant may use; adapters reach it by promotion only."""

DEFAULT_TENANT = "local"

MAX_DESCRIPTION_CHARS = 4000

ADAPTER_ID = re.compile(r"t2l-[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(kind: str, name: str) -> str:
    """
    Return *name* if it may name a tenant, alias or tag.

    Raises:
        InvalidName: It has characters that could be a path or a header, or looks like an id.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidName(
            f"{kind} {name!r}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit, without '..'"
        )
    if kind == "alias" and name.startswith("t2l-"):
        raise InvalidName(f"alias {name!r}: names that start with 't2l-' are adapter ids")
    return name


def check_description(text: str) -> str:
    """
    Return *text* without surrounding space if it may be stored as a task description.

    Raises:
        InvalidName: It is empty, too long or holds control characters.
    """
    stripped = text.strip()
    if not stripped or len(stripped) > MAX_DESCRIPTION_CHARS:
        raise InvalidName(
            f"description has {len(stripped)} characters; use 1 to {MAX_DESCRIPTION_CHARS}"
        )
    bad = next(
        (c for c in stripped if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t\r"), None
    )
    if bad is not None:
        raise InvalidName(f"description holds the control character {bad!r}; remove it")
    return stripped


def text_hash(text: str) -> str:
    """The hash under which equal descriptions meet: case, width and spacing don't count."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode()).hexdigest()[:32]
