import pytest

from t2l_router.commands import chosen, commands


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (
            'If a text starts with "S:" summarise it. If it starts with "K:" list its keywords.',
            {"s:": "summarise it.", "k:": "list its keywords."},
        ),
        (
            "Two modes:\n/sum - summarise the text\n/kw - extract keywords",
            {"/sum": "summarise the text", "/kw": "extract keywords"},
        ),
        (
            "EN = correct the English.\nES = translate to Spanish.",
            {"en": "correct the English.", "es": "translate to Spanish."},
        ),
        (
            "Messages beginning with !fix are corrected. Those beginning with !short are cut.",
            {"!fix": "corrected.", "!short": "cut."},
        ),
    ],
)
def test_commands(system, found):
    """Each mark of a system prompt stands for what to do with the turns that begin with it."""
    assert commands(system) == found


@pytest.mark.parametrize(
    "system",
    [
        "You are a helpful assistant.",
        "Reply with exactly one word: positive, negative or neutral.",
        'Output the result as "Answer: <number>". Start with "Dear".',
        "Tables: rides(id, day), bikes(id). Return the SQL first, then one line.",
        "",
    ],
)
def test_prompts_of_one_task(system):
    """A prompt that lets turns choose nothing has no commands."""
    assert commands(system) == {}


def test_chosen():
    """A turn chooses the command that it begins with, whatever its case; a word is no command."""
    marks = {"s:": "sum", "/kw": "keywords", "t": "translate"}

    assert chosen(marks, "S: The council met.") == "sum"
    assert chosen(marks, "  /KW heat pumps") == "keywords"
    assert chosen(marks, "t: hello") == "translate"
    assert chosen(marks, "t shirts are on sale") is None
    assert chosen(marks, "/kwx") is None
    assert chosen(marks, "") is None
