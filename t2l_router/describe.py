"""From a request to its task: a description, examples, or both, and where they came from."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from t2l_router.errors import InvalidDescription
from t2l_router.examples import Pair, checked, is_label, label_of
from t2l_router.wire import ChatRequest

MAX_CHARS = 4_000
HEADER = "X-T2L-Description"
Source = Literal["body", "header", "system", "inferred", "examples"]


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """
    What the conversation's task is, in words, by examples, or both.

    Args:
        text: Validated and normalised; empty where examples alone tell the task.
        source: Which part of the request said so, or that it was inferred.
        is_common: It is the description of a common task.
        examples: Inputs with their outputs, normalised.
    """

    text: str
    source: Source
    is_common: bool = False
    examples: tuple[Pair, ...] = ()

    @property
    def label(self) -> str:
        """The text under which its adapter is kept; equal ones are the same task."""
        return label_of(self.text, self.examples) if self.examples else self.text

    @property
    def is_alone(self) -> bool:
        """Whether it has an adapter of its own: no other task's serves it, however near."""
        return self.is_common or bool(self.examples)

    @property
    def told_by(self) -> str:
        """What an adapter is written from, for people."""
        return "these examples" if self.examples else "this description"


def task_of(request: ChatRequest, header: str | None = None) -> TaskDescription | None:
    """
    The task that a request states; None if it states none.

    Its description is the body's field, else the header; its examples are the body's.

    Args:
        request: Its field ``t2l_description`` may hold anything.
        header: The value of ``X-T2L-Description``, UTF-8 or latin-1, percent-encoded or not.

    Raises:
        InvalidDescription: It isn't text, says nothing, or is too long.
        InvalidRequest: An example is empty or too long.
    """
    text = ""
    source: Source = "examples"
    if request.t2l_description is not None:
        text, source = validated(request.t2l_description, param="t2l_description"), "body"
    elif header is not None:
        text, source = validated(_unquote(header), param=HEADER), "header"
    if request.t2l_examples is not None:
        return of_examples(text, [(pair.input, pair.output) for pair in request.t2l_examples])
    return TaskDescription(text, source) if text else None


def of_examples(
    text: str, pairs: Sequence[Pair], *, param: str = "t2l_examples"
) -> TaskDescription:
    """
    Give the task that examples tell.

    Args:
        text: Its description, validated; may be empty.
        pairs: Inputs with their outputs.
        param: Where they were given, for the error.

    Raises:
        InvalidRequest: An example is empty or too long.
    """
    return TaskDescription(text, "examples", examples=checked(pairs, param=param))


def validated(description: object, *, param: str | None = None) -> str:
    """
    Normalise a description: composed characters, single spaces, none at the ends.

    Args:
        description: Whatever the caller gave.
        param: Where he gave it, for the error.

    Raises:
        InvalidDescription: It isn't text, holds no letter or digit, is too long, or poses as the
            name of a task that examples tell.
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
    if is_label(text):
        # Else a sentence could take the place of an adapter that was written from examples.
        raise InvalidDescription(
            "the task description ends as the library names tasks by their examples; "
            "leave that out, or name the adapter with t2l_adapter",
            param=param,
        )
    return text


def _unquote(header: str) -> str:
    # Servers hand headers over as latin-1, but many clients send UTF-8, percent-encoded or raw.
    raw = unquote_to_bytes(header.encode("latin-1"))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
