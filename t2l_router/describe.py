"""From a request to its task description, and where that came from."""

import unicodedata
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from t2l_router.errors import InvalidDescription
from t2l_router.wire import ChatRequest

MAX_CHARS = 4_000
HEADER = "X-T2L-Description"
Source = Literal["body", "header", "system", "inferred"]


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """
    What the conversation's task is, in words.

    Args:
        text: Validated and normalised; equal texts are the same task.
        source: Which part of the request said so, or that it was inferred.
        is_common: It is the description of a common task, which has an adapter of its own: no
            other task's serves it, however near.
    """

    text: str
    source: Source
    is_common: bool = False


def task_of(request: ChatRequest, header: str | None = None) -> TaskDescription | None:
    """
    The request's task description: from the body's field, else from the header, else none.

    Args:
        request: Its field ``t2l_description`` may hold anything.
        header: The value of ``X-T2L-Description``, UTF-8 or latin-1, percent-encoded or not.

    Raises:
        InvalidDescription: It isn't text, says nothing, or is too long.
    """
    if request.t2l_description is not None:
        text = validated(request.t2l_description, param="t2l_description")
        return TaskDescription(text, "body")
    if header is not None:
        return TaskDescription(validated(_unquote(header), param=HEADER), "header")
    return None


def validated(description: object, *, param: str | None = None) -> str:
    """
    Normalise a description: composed characters, single spaces, none at the ends.

    Args:
        description: Whatever the caller gave.
        param: Where he gave it, for the error.

    Raises:
        InvalidDescription: It isn't text, holds no letter or digit, or is too long.
    """
    if not isinstance(description, str):
        kind = type(description).__name__
        raise InvalidDescription(f"the task description must be text, not {kind}", param=param)
    text = " ".join(unicodedata.normalize("NFC", description).split())
    if not text:
        raise InvalidDescription(
            "the task description is empty; leave it out for the base model", param=param
        )
    if len(text) > MAX_CHARS:
        raise InvalidDescription(
            f"the task description has {len(text):,} characters; the limit is {MAX_CHARS:,}",
            param=param,
        )
    if not any(character.isalnum() for character in text):
        raise InvalidDescription(
            "the task description holds no word; say what the task is", param=param
        )
    if control := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs")), None):
        raise InvalidDescription(
            f"the task description holds the control character {control!r}", param=param
        )
    return text


def _unquote(header: str) -> str:
    # Servers hand headers over as latin-1, but many clients send UTF-8, percent-encoded or raw.
    raw = unquote_to_bytes(header.encode("latin-1"))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
