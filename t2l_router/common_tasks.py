"""
Which common task a text means, if it surely means one.

Chats ask for the same few tasks in ever other words. Where a text surely means a common task, that
task's description stands for it, so that all of them share one adapter; what is special about a
chat is in its prompt, which the base model reads anyway. A task of its own keeps its words.
"""

import re

from t2l_router.guard import contradictions, left_open
from t2l_router.guard_words import LANGUAGES, PROGRAMMING
from t2l_router.heads import Heads
from t2l_router.topics import Vector

SURE = 0.36  # from here on the heads' probability and half the cosine say that it means the task
_TRANSLATE = re.compile(r"Translate (\w+) text into (\w+)\.")
_INSTEAD = re.compile(r"\b(?:instead of|rather than|not(?: in| into)?) (?:the )?\w+", re.IGNORECASE)
# Where the language of the material is named, before it.
_GIVEN = re.compile(
    r"\b(?:from|(?:is|are|it's|sentences|texts|messages|words|lines) in"
    r"|(?:i|we|they|you get) (?:write|wrote|type|speak)(?: it)?(?: in)?) (?:the )?(\w+)",
    re.IGNORECASE,
)
_INTO = re.compile(r"\b(?:in|into|to) (?:the )?(\w+)", re.IGNORECASE)
_NATURAL = {name for name in LANGUAGES if name not in PROGRAMMING}


def common_task(heads: Heads, text: str, embedding: Vector, which: Vector) -> str | None:
    """
    Give the description of the common task that a text means; None if it means none for sure.

    Args:
        heads: Know the common tasks.
        text: A request, or what a system prompt states.
        embedding: Of it, ``[D]`` of unit L2 norm.
        which: What `Heads.which_task` gives for it, ``[N]``.
    """
    likely = which + heads.task_embeddings @ embedding / 2
    best = int(likely.argmax())
    if best in heads.wide or likely[best] < SURE:
        return None
    known = between_languages(heads.tasks[best], text)
    if contradictions(_INSTEAD.sub(" ", text), known) or left_open(text, known):
        return None
    return known


def between_languages(description: str, text: str) -> str:
    """
    Give the translation task between the languages that a text names.

    Semantics:
        "Translate English text into French." and a text that names Dutch alone give
        "Translate English text into Dutch."; other descriptions come back as they are.
    """
    if (found := _TRANSLATE.fullmatch(description)) is None:
        return description
    source, target = found.groups()
    rest = _INSTEAD.sub(" ", text)
    said = [word.title() for word in re.findall(r"[a-z]+", rest.lower()) if word in _NATURAL]
    given = [word.title() for word in _GIVEN.findall(rest) if word.lower() in _NATURAL]
    into = [word.title() for word in _INTO.findall(rest) if word.lower() in _NATURAL]
    if not said:
        return description
    if given and len(set(said)) > 1:
        source = given[0]
        return f"Translate {source} text into {next(w for w in reversed(said) if w != source)}."
    if into:
        target = into[-1]
        # Who names one language alone writes English, and wants English of everything else.
        source = next((word for word in said if word != target), "English")
        if source == target:
            return description
    elif source == "English":
        target = next((word for word in said if word != source), target)
    else:
        source = next((word for word in said if word != target), source)
    return f"Translate {source} text into {target}."
