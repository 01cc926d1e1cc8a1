import pytest

from training.metrics import exact_match, normalise, rouge_l


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat. ", "the cat"),
        ("-5", "-5"),
        ("+", "+"),
        ("?!", "?!"),
        ("(B) New-York's", "b new-yorks"),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    """Case, punctuation and spaces don't count; signs do; a lone symbol isn't emptied."""
    assert normalise(text) == expected


def test_exact_match_takes_any_reference() -> None:
    """One right reference is enough."""
    assert exact_match("Yes.", ("no", "yes")) == 1
    assert exact_match("yes it is", ("no", "yes")) == 0


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("a b c", ("a b c",), 1),
        ("a c", ("a b c",), 0.8),
        ("c b a", ("a b c",), 1 / 3),
        ("", ("a",), 0),
        ("x", ("a", "x y z"), 0.5),
    ],
)
def test_rouge_l(answer: str, references: tuple[str, ...], score: float) -> None:
    """F1 of the longest common subsequence, the best reference counts."""
    assert rouge_l(answer, references) == pytest.approx(score)
