import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.engines.text import StopStrings, TokenText
from tests.tiny_models import byte_tokenizer

LETTERS = st.text("ab", min_size=0, max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)
TOKENIZER = byte_tokenizer()


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the text before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    subject = StopStrings(stops)
    shown = []
    for piece in pieces:
        shown.append(subject.feed(piece))
        if subject.stopped:
            return shown, True
    return [*shown, subject.flush()], False


@given(LETTERS, STOPS, st.data())
def test_cutting_does_not_depend_on_pieces(text, stops, data):
    """However a text is cut into pieces, what shows is the text before the first stop string."""
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *marks], [*marks, len(text)], strict=True)]

    shown, stopped = run(pieces, stops)

    assert ("".join(shown), stopped) == cut(text, stops)


@given(LETTERS, STOPS)
def test_nothing_is_held_back_without_need(text, stops):
    """At any time everything shows but an end that could still become a stop string."""
    subject = StopStrings(stops)
    shown = ""
    for n, letter in enumerate(text, 1):
        shown += subject.feed(letter)
        if subject.stopped:
            return
        held = text[len(shown) : n]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "stopped"),
    [
        (["Par", "is"], [], ["Par", "is", ""], False),
        (["Par", "is."], ["is."], ["Par", ""], True),
        (["Pa", "ris"], ["ri"], ["Pa", ""], True),
        (["a\n", "b"], ["\n\n"], ["a", "\nb", ""], False),
        (["a\n"], ["\n\n"], ["a", "\n"], False),
        (["END"], ["END"], [""], True),
    ],
)
def test_stop_strings(pieces, stops, shown, stopped):
    """A possible stop string is held back until it is certain."""
    assert run(pieces, stops) == (shown, stopped)


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.text())
def test_tokens_join_to_the_text(text):
    """The pieces of any text joined are the text, and none holds half a character."""
    subject = TokenText(decode)
    pieces = [subject.feed(token) for token in TOKENIZER(text).input_ids]

    assert "".join(pieces) + subject.flush() == text.rstrip("\ufffd")
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_broken_bytes(ids):
    """Bytes that are no text don't raise, and the text doesn't end in half a character."""
    subject = TokenText(decode)
    text = "".join(subject.feed(token) for token in ids) + subject.flush()

    assert not text.endswith("\ufffd")
    assert decode(ids).startswith(text)


def test_character_of_several_tokens():
    """A character shows when its last byte is there."""
    subject = TokenText(decode)

    assert [subject.feed(token) for token in TOKENIZER("é!").input_ids] == ["", "é", "!"]


def test_unfinished_character_is_dropped():
    """Text that ends inside a character ends before it."""
    subject = TokenText(decode)
    subject.feed(TOKENIZER("é").input_ids[0])

    assert subject.flush() == ""


@pytest.mark.real
@pytest.mark.parametrize(
    "text", ["Héllo wörld — ok", "日本語とEnglish", "a  b\n\n c", "👩‍👩‍👧 family", " lead"]
)
def test_real_tokenizer(smollm2, text):
    """The default model's tokenizer gives the text back piece by piece."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - seconds to import

    tokenizer = PreTrainedTokenizerFast.from_pretrained(smollm2.path)
    subject = TokenText(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))

    pieces = [subject.feed(token) for token in tokenizer(text).input_ids]

    assert "".join(pieces) + subject.flush() == text
