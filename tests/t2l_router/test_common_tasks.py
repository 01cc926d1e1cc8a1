from dataclasses import replace

import numpy as np
import pytest

from t2l_router.common_tasks import between_languages, common_task
from tests.t2l_router.test_inference import TASKS, WordEncoder, made

HEADS = made()


def meant(text: str, *, wide=frozenset()) -> str | None:
    (embedding,) = WordEncoder().embed([text])
    return common_task(replace(HEADS, wide=wide), text, embedding, np.zeros(3, np.float32))


def test_same_task_in_other_words():
    """A text near to a common description stands for it; one far from all keeps its words."""
    assert meant("sort list a please") == TASKS[1]
    assert meant("Name the capital.") is None


def test_wide_tasks_stand_for_nothing():
    """A common task that holds different ones is never what a request means."""
    assert meant("sort list a please", wide=frozenset({1})) is None


def test_other_languages():
    """A request for other languages than the common translation names is at one of its own."""
    assert meant("translate english text into dutch") == "Translate English text into Dutch."


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("put it in french", "Translate English text into French."),
        ("Spanish instead of French today", "Translate English text into Spanish."),
        ("from Dutch to Polish", "Translate Dutch text into Polish."),
        ("Polish to English", "Translate Polish text into English."),
        (
            "I'll send sentences in English, give me the French",
            "Translate English text into French.",
        ),
        ("put it in Polish, I wrote it in Dutch", "Translate Dutch text into Polish."),
        ("you get texts in Dutch and I want French", "Translate Dutch text into French."),
        ("the Danish version", "Translate English text into Danish."),
    ],
)
def test_languages(text, task):
    """The languages that a text names take the place of the nearest task's."""
    near = "English" if text.endswith("English") else "French"
    source = "German" if near == "English" else "English"

    assert between_languages(f"Translate {source} text into {near}.", text) == task


def test_other_tasks_have_no_languages():
    """Only translations are changed."""
    assert between_languages("Write a poem.", "a poem in French") == "Write a poem."
