import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.describe import MAX_CHARS, task_of, validated
from t2l_router.errors import InvalidDescription
from t2l_router.wire import ChatRequest, Message


def request(**fields) -> ChatRequest:
    return ChatRequest(model="m", messages=[Message(role="user", content="hi")], **fields)


def test_no_description():
    """A request that says nothing about its task has none."""
    assert task_of(request()) is None


def test_body_wins_over_header():
    """The body's field is nearer to the caller than a header a proxy may have set."""
    task = task_of(request(t2l_description="Translate"), "Summarise")

    assert (task.text, task.source) == ("Translate", "body")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Translate", "Translate"),
        ("%C3%9Cbersetze%20ins%20Franz%C3%B6sische", "Übersetze ins Französische"),
        ("Übersetze".encode().decode("latin-1"), "Übersetze"),
        ("Übersetze", "Übersetze"),
        ("100% natural", "100% natural"),
        ("%ff", "\xff"),
    ],
)
def test_header_encodings(header, text):
    """A header is read as UTF-8, percent-encoded or raw, and else as latin-1."""
    task = task_of(request(), header)

    assert (task.text, task.source) == (text, "header")


def test_white_space_is_normalised():
    """Descriptions that differ in white space or composition only are the same task."""
    assert validated(" Re\u0301sume\u0301\n the\ttext ") == "R\u00e9sum\u00e9 the text"


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("...!?", "no word"),
        ("\u200b\u200b", "no word"),
        ("a" * (MAX_CHARS + 1), "4,001 characters"),
        ("a\x00b", "control character"),
        ("a\ud800b", "control character"),
        (7, "not int"),
        (True, "not bool"),
        (["Translate"], "not list"),
        ({"text": "Translate"}, "not dict"),
    ],
)
def test_bad_description(description, says):
    """A description that can't be one is refused, and the error names its field."""
    with pytest.raises(InvalidDescription, match=says) as caught:
        task_of(request(t2l_description=description))

    assert caught.value.param == "t2l_description"


def test_bad_header():
    """An error in the header names the header."""
    with pytest.raises(InvalidDescription) as caught:
        task_of(request(), "")

    assert caught.value.param == "X-T2L-Description"


def test_longest_description():
    """A description of exactly the limit is accepted."""
    assert len(validated("a" * MAX_CHARS)) == MAX_CHARS


@given(st.text())
def test_validation_is_stable(text):
    """What was accepted once is accepted unchanged."""
    try:
        once = validated(text)
    except InvalidDescription:
        return
    assert validated(once) == once


@given(st.text(st.characters(max_codepoint=255)))
def test_any_header_is_judged(header):
    """Any header is either a task or an InvalidDescription."""
    try:
        text = task_of(request(), header).text
    except InvalidDescription:
        return
    assert text
