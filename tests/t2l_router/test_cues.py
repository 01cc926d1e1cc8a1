"""What a turn's small words say."""

import pytest

from t2l_router.cues import CUES, cues


def found(text: str) -> set[str]:
    return {name for name, value in zip(CUES, cues(text), strict=True) if value}


@pytest.mark.parametrize(
    ("text", "cue"),
    [
        ("something completely different: name a river", "change"),
        ("that's enough maths. Draw a cat", "change"),
        ("ok, now turn it into a poem", "now"),
        ("another one, please", "more"),
        ("shorter, as a table", "form"),
        ("put all of them together", "back"),
        ("rewrite the letter", "the"),
        ("is it open on Sunday?", "question"),
        ("and who pays for that", "asks"),
        ("could you please translate this", "verb"),
        ("in Spanish, both", "language"),
        ("sort: pear, fig", "colon"),
    ],
)
def test_cue(text: str, cue: str) -> None:
    """Each cue is seen in a turn that holds it, and in none that says nothing."""
    assert cue in found(text)
    assert cue not in found("Rain fell in Leeds")


def test_cues_are_shares() -> None:
    """All of them lie between 0 and 1, however long the text."""
    for text in ("", "?", "it " * 500, "shorter " * 500):
        assert all(0 <= value <= 1 for value in cues(text))
