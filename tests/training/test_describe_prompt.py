"""What a model is asked, and how its answer is read."""

import pytest

from training.corpus import Example
from training.describe_prompt import SHOWN, Shown, descriptions_in, key, messages


@pytest.mark.parametrize("style", ["full", "terse"])
def test_messages(style):
    """The prompt shows descriptions of another task, this task's pairs, and how many are wanted."""
    task = Shown([Example("tea oak cat", ("cat oak tea",)), Example("x" * 5_000, ("y",))])

    system, user = messages(task, SHOWN[style], count=7, style=style)
    assert (system["role"], user["role"]) == ("system", "user")
    text = user["content"]
    assert text.index(SHOWN[style].descriptions[0]) < text.index("Question: tea oak cat")
    assert "Answer: cat oak tea" in text
    assert "Write 7 descriptions" in text
    assert len(text) < 4_000


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Description 1: Sort the words.\nDescription 2: Put words in order.", 2),
        ("Sure!\n\n1. Sort the words.\n2) Put words in order.\n\nI hope this helps you.", 2),
        ("**Description 1:** Sort the words.\n\n**Description 2:** Put words in order.", 2),
        ("- Sort the words.\n- Put words in order.", 2),
        ('Description 1: "Sort the\nwords."\n\nDescription 2: Put words\nin order.', 2),
        ("Sort the words.", 0),
        ("1. Sort.\n2. ???\n3. " + "word " * 100, 0),
        ("", 0),
    ],
)
def test_descriptions_in(answer, read):
    """Numbered or dashed lines count, whatever stands around them; too short or long ones don't."""
    assert descriptions_in(answer) == ["Sort the words.", "Put words in order."][:read]


def test_key():
    """Case, punctuation and spaces make no difference; other words do."""
    assert key("Sort the words!") == key("sort  the words")
    assert key("Sort the words") != key("Sort these words")
