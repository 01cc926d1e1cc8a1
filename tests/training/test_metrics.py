import pytest

from training.metrics import choice, exact_match, final_number, normalise, rouge_l, set_match


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


def test_set_match_ignores_order() -> None:
    """Items may come in any order, but none may be missing or too many."""
    assert set_match("cow, Fox", ("fox, cow",)) == 1
    assert set_match("cow", ("fox, cow",)) == 0
    assert set_match("cow, fox, owl", ("fox, cow",)) == 0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("#### 9", 1),
        ("6 + 3 = 9 rows.", 1),
        ("It is 9.0", 1),
        ("9 of 12", 0),
        ("-9", 0),
        ("nine", 0),
        ("", 0),
    ],
)
def test_final_number(answer: str, score: float) -> None:
    """The last number counts, as a number."""
    assert final_number(answer, "9") == score
    assert final_number("$1,234", "1234") == 1


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "B.", "(B)", "B) water", "Answer: B", "The answer is B.", "answer is: (b)", "**B**",
     "water", "Water is needed", "I choose B", "B\nC", "The correct answer is **B**"],
)  # fmt: skip
def test_choice_finds_the_letter(answer: str) -> None:
    """However a model names its option; "Answer: B" is B, not A."""
    assert choice(answer, ["air", "water", "a cat"], "B") == 1
    assert choice(answer, ["air", "water", "a cat"], "A") == 0


@pytest.mark.parametrize("answer", ["A cat sat there.", "", "C", "none of them"])
def test_choice_is_not_fooled(answer: str) -> None:
    """An article is no option, and no answer is no answer."""
    assert choice(answer, ["air", "water", "rain"], "A") == 0
    assert choice(answer, ["air", "water", "rain"], "B") == 0


def test_choice_between_words() -> None:
    """Options without letters are picked by name, the first one named."""
    assert choice("That is true.", ["False", "True"], "True") == 1
    assert choice("False, not True", ["False", "True"], "True") == 0
    assert choice("maybe", ["False", "True"], "True") == 0
