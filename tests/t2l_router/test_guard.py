import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.guard import Finding, contradictions
from t2l_router.guard_words import OPPOSITES

VOCABULARY = (
    "translate english french to from of the 3 five json upper lower no not without first last "
    "given name country capital before after answer one word"
)
WORDS = st.sampled_from(VOCABULARY.split())
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("one", "two", "kind"),
    [
        ("Summarise in 3 points.", "Summarise in five points.", "numbers"),
        ("Answer in one sentence.", "Answer in 2 sentences, briefly.", "numbers"),
        ("Translate what I say into French.", "Put it into German for me.", "languages"),
        ("Reply as JSON only.", "Show me all results in a table.", "formats"),
        ("Write it all in upper case.", "Please keep every letter lowercase.", "opposites"),
        ("Show the steps you took.", "Answer and don't show steps at all.", "negation"),
        ("Turn Celsius readings to Fahrenheit.", "Fahrenheit to Celsius, please.", "direction"),
        ("Name the capital of a country.", "Given the capital, name its country.", "direction"),
        ("Translate English into French.", "Translate French into English.", "direction"),
        ("Explain the joke to a child.", "Explain the joke to an expert.", "wording"),
    ],
)
def test_finds_contradiction(one, two, kind) -> None:
    """Each kind of contradiction is found, whichever text comes first."""
    assert kind in {finding.kind for finding in contradictions(one, two)}
    assert kind in {finding.kind for finding in contradictions(two, one)}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Summarise the text.", "Summarise the text in 3 bullet points."),
        ("Is the review positive or negative?", "Decide whether the review is positive."),
        ("Say whether it is sarcastic or not.", "Detect sarcasm in what people write."),
        ("Pick one of the options.", "Pick the best of 4 options."),
        ("Translate from English to French.", "I need English text in French."),
        ("", "Translate."),
    ],
)
def test_saying_less_is_no_contradiction(one, two) -> None:
    """A text that is merely silent about something contradicts nothing."""
    assert not contradictions(one, two)


SHOP = "You answer for shop {}, one of 3 in town. Be brief: 2 sentences, {} at a push."


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (SHOP.format(1, "one"), SHOP.format(2, "one")),
        (SHOP.format(2, "three"), SHOP.format(3, "three")),
        ("Answer for shop one, in 2 lines.", "In 2 lines or one answer for shop two."),
    ],
)
def test_numbers_at_one_place(one, two) -> None:
    """A number is compared with the one in its place, whatever else both texts count."""
    kinds = {finding.kind for finding in contradictions(one, two)}

    assert kinds == {finding.kind for finding in contradictions(two, one)}
    assert "numbers" in kinds


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            "Read what they claim. Say 1 if it is backed by facts, 0 if nothing speaks for it.",
            "Read the claim closely. Say 0 if nothing speaks for it, 1 if it is backed by facts.",
        ),
        ("Write 3 sentences with 2 adjectives.", "Use 2 adjectives in the 3 sentences."),
        ("Stop after one hundred items, 3 a line.", "Stop after 100 items and put 3 on a line."),
        ("Rate it from 1 to 5.", "Rate it, 5 being best and 1 worst."),
        ("Read sentence one and sentence two.", "Read sentences 1 and 2."),
    ],
)
def test_numbers_in_other_words(one, two) -> None:
    """The same numbers told in another order, or in words, contradict nothing."""
    assert not contradictions(one, two)


def test_finding_explains_itself() -> None:
    """A finding reads as a sentence with both values."""
    (finding,) = contradictions("List 3 rivers of Europe.", "Please list five European rivers.")

    assert str(finding) == "numbers differ: 3 vs 5"
    assert str(Finding("direction", "a to b", "b to a")) == "direction differs: a to b vs b to a"


@given(TEXTS)
def test_no_text_contradicts_itself(text) -> None:
    """Equal texts agree, also in another case and spacing."""
    assert not contradictions(text, text)


@given(TEXTS, TEXTS)
def test_symmetry(one, two) -> None:
    """Which text comes first changes the order of the values, nothing else."""
    forward = {(f.kind, f.one, f.two) for f in contradictions(one, two)}
    backward = {(f.kind, f.two, f.one) for f in contradictions(two, one)}

    assert forward == backward


def test_sides_are_disjoint() -> None:
    """No word stands on both sides of a pair."""
    assert not [pair for pair in OPPOSITES if pair[0] & pair[1]]
