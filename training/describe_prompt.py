"""
What a language model is asked when it is to describe a task, and how its answer is read.

The structure is that of the paper's Appendix G: pairs of another task with descriptions to follow,
pairs of the task itself, and the wish for many short and diverse descriptions that say nothing of
the answer's format. The words are ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from t2l_router.describe import validated
from t2l_router.errors import InvalidDescription
from training.corpus import Example

Messages = list[dict[str, str]]

_MAX_SIDE_CHARS = 600
_WORDS = range(2, 81)
_SYSTEM = "You are a creative and helpful assistant."
_WISH = """\
Write {count} descriptions of the task that the last question-answer pairs belong to.
Describe the dataset as a whole: its topic, and the knowledge, skills and steps of thought that an \
answer takes. Don't describe single questions.
DO NOT mention options, labels or the form of the answer, such as "choose the correct option" or \
"answer in one word".
DO NOT say how to answer; say what is asked.
{style}
Make them unlike each other. Reply with the descriptions only, one a line, in this form:
Description 1: ...
Description 2: ..."""
_STYLES = {
    "full": (
        "Use plain words. Vary the length, the structure and the style of writing; "
        "one to three sentences each."
    ),
    "terse": (
        "Write them as people type into a chat: at most eight words, often lower case, "
        "no full sentences."
    ),
}
# "Description 3: ...", "3. ...", "- ...", with or without asterisks.
_ITEM = re.compile(
    r"^\s*(?:[-\u2022]|[*_#\s]*(?:description\s*)?\d{1,3}\s*[:.)])[*_\s]*(?=\S)", re.IGNORECASE
)
_QUOTES = "\"'\u201c\u201d\u2018\u2019*_ "


@dataclass(frozen=True)
class Shown:
    """
    A task as the prompt shows it.

    Args:
        pairs: Some of its examples.
        descriptions: Good descriptions of it.
    """

    pairs: Sequence[Example]
    descriptions: Sequence[str] = ()


SHOWN = {
    "full": Shown(
        (
            Example("The bill of the meeting was signed by the mayer.", ("mayer -> mayor",)),
            Example("She recieved two letters.", ("recieved -> received",)),
        ),
        (
            "Find the misspelt word in a sentence and put it right.",
            "You read English with an eye for spelling. One word went wrong; correct it.",
            "The challenge is to know English spelling and to notice where a writer slipped.",
        ),
    ),
    "terse": Shown(
        (Example("She recieved two letters.", ("recieved -> received",)),),
        ("fix the typo", "spelling correction pls", "find misspelled word and correct it"),
    ),
}


def messages(task: Shown, other: Shown, *, count: int, style: str) -> Messages:
    """
    Ask for *count* descriptions of a task.

    Args:
        task: Its descriptions aren't shown.
        other: Another task, with descriptions to take as examples.
        count: How many descriptions.
        style: ``full``, the paper's, or ``terse``, as chat users write.
    """
    parts = [
        "Here are question-answer pairs of one dataset.",
        _pairs(other.pairs),
        "These describe its task well:",
        "\n".join(f"Description {i}: {text}" for i, text in enumerate(other.descriptions, 1)),
        "Here are question-answer pairs of another dataset.",
        _pairs(task.pairs),
        _WISH.format(count=count, style=_STYLES[style]),
    ]
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


def _pairs(examples: Sequence[Example]) -> str:
    return "\n\n".join(
        f"Question: {_cut(example.text)}\nAnswer: {_cut(example.outputs[0])}"
        for example in examples
    )


def _cut(text: str) -> str:
    """Whatever says what the task is stands at the start; long texts only cost."""
    return text if len(text) <= _MAX_SIDE_CHARS else text[:_MAX_SIDE_CHARS].rstrip() + " ..."


def descriptions_in(answer: str) -> list[str]:
    """
    Read the descriptions off an answer.

    Only numbered or dashed lines count: what a model says around them is no description.
    A description may take several lines, up to an empty one.
    """
    items: list[list[str]] = []
    is_open = False
    for line in answer.splitlines():
        if found := _ITEM.match(line):
            items.append([line[found.end() :]])
            is_open = True
        elif not line.strip():
            is_open = False
        elif is_open:
            items[-1].append(line)
    return [text for lines in items if (text := _tidy(" ".join(lines)))]


def _tidy(text: str) -> str | None:
    try:
        tidy = validated(text.strip(_QUOTES))
    except InvalidDescription:
        return None
    return tidy if len(tidy.split()) in _WORDS else None


def key(description: str) -> str:
    """What two descriptions have in common that say the same in the same words."""
    return " ".join(re.findall(r"\w+", description.casefold()))
