"""Examples as requests bring them, and the names of tasks that they tell."""

import json

import pytest

from t2l_router import wire
from t2l_router.describe import TaskDescription, task_of, validated
from t2l_router.errors import InvalidDescription, InvalidRequest
from t2l_router.examples import checked, headline, is_label, label_of

PAIRS = (("red cat", "RED CAT"), ("blue dog", "BLUE DOG"), ("sun", "SUN"))
SHOWN = [{"input": text, "output": output} for text, output in PAIRS]


def task(**fields) -> TaskDescription:
    """The task of a request, from bytes."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return task_of(wire.parse_chat(json.dumps(body).encode()))


def test_task_of_examples():
    """Examples tell a task with a description and without one."""
    alone = task(t2l_examples=SHOWN)
    both = task(t2l_examples=SHOWN, t2l_description=" Shout  it ")

    assert (alone.text, alone.examples, alone.source) == ("", PAIRS, "examples")
    assert (both.text, both.examples, both.source) == ("Shout it", PAIRS, "examples")
    assert alone.label.startswith("[3 examples, ")
    assert both.label.startswith("Shout it [3 examples, ")


def test_header_and_examples():
    """The description may come in the header, the examples in the body."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "t2l_examples": SHOWN}
    told = task_of(wire.parse_chat(json.dumps(body).encode()), "Shout")

    assert (told.text, told.examples) == ("Shout", PAIRS)


def test_equal_tasks():
    """Spacing at the ends, line breaks and composition don't count; nor a description's case."""
    spelt = [("  cafe\u0301\r\nbar ", "x")], [("caf\u00e9\nbar", "x\n")]
    one, two = (TaskDescription(t, "examples", examples=checked(p)).label
                for t, p in zip(("Shout it", "SHOUT it"), spelt, strict=True))  # fmt: skip

    assert one.casefold() == two.casefold()


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Shout it", PAIRS[::-1]),
        ("Shout it", PAIRS[:2]),
        ("Shout it", (*PAIRS[:2], ("sun", "sun"))),
        ("Shout it", (*PAIRS[:2], ("Sun", "SUN"))),
        ("Shout", PAIRS),
        ("", PAIRS),
        ("Shout it", (("red cat", "RED CAT"), ("blue dog", "BLUE DOG"), ("sun\nSUN", "SUN"))),
    ],
)
def test_other_tasks(text, pairs):
    """Whatever else the description, the examples or their order, it is another task."""
    assert label_of("Shout it", PAIRS) != label_of(text, pairs)


def test_long_description():
    """A label fits into the library however long the description, all of which counts."""
    start = "word " * 799
    one, two = (label_of(start + end, PAIRS) for end in ("a", "b"))

    assert one != two
    assert max(len(one), len(two)) <= 4_000


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda label: label.replace("[", "\uff3b"), lambda label: label + "  "],
)
def test_description_that_poses_as_a_label(change):
    """No description can take the place of a task that examples tell."""
    with pytest.raises(InvalidDescription, match="t2l_adapter"):
        validated(change(label_of("Shout it", PAIRS)))


def test_labels_are_known():
    """A label is known as one, alone and behind a description; other brackets are not."""
    assert is_label(label_of("", PAIRS[:1]))
    assert is_label(label_of("Shout it", PAIRS))
    assert not is_label("Answer with [3 examples, as above]")


def test_headline():
    """Lists say first that examples were there, whatever they cut off."""
    assert headline(label_of("Shout it", PAIRS)) == "3 examples: Shout it"
    assert headline(label_of("", PAIRS[:1])) == "1 example"
    assert headline("Shout it") == "Shout it"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([], "t2l_examples"),
        (SHOWN * 6, "t2l_examples"),
        ({"input": "x", "output": "y"}, "t2l_examples"),
        ("x", "t2l_examples"),
        ([SHOWN[0], {"input": "x"}], "t2l_examples[1].output"),
        ([{"input": "x", "output": 3}], "t2l_examples[0].output"),
        ([SHOWN[0], {"input": " \n", "output": "y"}], "t2l_examples[1].input"),
        ([{"input": "x", "output": ""}], "t2l_examples[0].output"),
        ([{"input": "x" * 4_001, "output": "y"}], "t2l_examples[0].input"),
        ([{"input": "a\0b", "output": "y"}], "t2l_examples[0].input"),
        ([{"input": "a", "output": "\x1b[31m"}], "t2l_examples[0].output"),
    ],
)
def test_bad_examples(given, param):
    """What is wrong with examples is an error that names the very text."""
    with pytest.raises(InvalidRequest) as caught:
        task(t2l_examples=given)

    assert caught.value.param == param
    assert str(caught.value).startswith(param)


def test_lines_and_tabs_are_text():
    """Inputs of several lines and with tabs are as good as any."""
    assert checked([("a\tb\nc", "d")]) == (("a\tb\nc", "d"),)
