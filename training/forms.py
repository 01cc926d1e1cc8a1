"""
Other forms for a task's answers: in capitals, in quotes, as JSON and the like.

What form an answer takes can then not be known of the task; it has to be read, from what the
description says of it or from the examples.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_NAMES = ("answer", "output", "result", "label", "response", "reply", "text", "value")


@dataclass(frozen=True, slots=True)
class Form:
    """
    One way of writing answers.

    Args:
        apply: A plain answer's text to the text in this form.
        told: Words that ask for it, to go behind a description.
    """

    apply: Callable[[str], str]
    told: tuple[str, ...]


def draw(rng: np.random.Generator, words: Sequence[str]) -> Form:
    """
    Choose a form.

    Args:
        rng: Decides.
        words: Of which beginnings and ends are made.
    """
    name = str(rng.choice(_NAMES))
    word = str(rng.choice(words))
    forms = (*_fixed(), *_named(name), *_worded(word))
    return forms[int(rng.integers(len(forms)))]


def _fixed() -> tuple[Form, ...]:
    return (
        Form(str.upper, (" Write the answer in capital letters.", ", in caps")),
        Form(str.lower, (" Write everything in lower case.", ", lowercase only")),
        Form(str.title, (" Capitalise each word of the answer.", ", Title Case")),
        Form(lambda text: f'"{text}"', (" Put the answer in quotation marks.", ", in quotes")),
        Form(lambda text: f"[{text}]", (" Put the answer in square brackets.", ", in [brackets]")),
        Form(lambda text: f"({text})", (" Put the answer in parentheses.", ", in (parentheses)")),
        Form(lambda text: f"**{text}**", (" Make the answer bold, in Markdown.", ", bold")),
        Form(lambda text: f"- {text}", (" Answer as an item of a list.", ", as a bullet point")),
        Form(
            lambda text: text if text.endswith(".") else f"{text}.",
            (" End the answer with a full stop.", ", with a period at the end"),
        ),
        Form(lambda text: f"{text}!", (" End the answer with an exclamation mark.", ", add a !")),
    )


def _named(name: str) -> tuple[Form, ...]:
    capital = name.capitalize()
    return (
        Form(
            lambda text: json.dumps({name: text}, ensure_ascii=False),
            (f' Answer in JSON, with the key "{name}".', f", as json with key {name}"),
        ),
        Form(
            lambda text: f"<{name}>{text}</{name}>",
            (f" Put the answer into a {name} tag.", f", inside <{name}> tags"),
        ),
        Form(
            lambda text: f"{capital}: {text}",
            (f' Begin with "{capital}:".', f', start with "{capital}:"'),
        ),
        Form(
            lambda text: f"The {name} is {text}",
            (f' Begin with "The {name} is".', f', say "the {name} is ..."'),
        ),
    )


def _worded(word: str) -> tuple[Form, ...]:
    return (
        Form(
            lambda text: f"{word}: {text}",
            (f' Begin the answer with "{word}:".', f', start with "{word}:"'),
        ),
        Form(
            lambda text: f"{text} {word}",
            (f' End the answer with the word "{word}".', f", end with {word}"),
        ),
    )
