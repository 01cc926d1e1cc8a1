import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.topics import (
    MAX_EARLIER,
    Aside,
    Judge,
    Kept,
    Shifted,
    Topic,
    Turn,
    begin,
    evidence,
    follow,
)
from t2l_router.turns import ACTS

D = 8
F = len(
    evidence(
        begin(None, "a", np.ones(D, np.float32), None, source="inferred"),
        Turn(
            np.ones(D, np.float32),
            np.ones(D, np.float32),
            np.ones(D, np.float32),
            (0.0,) * len(ACTS),
            np.zeros(3, np.float32),
        ),
    )
)


def unit(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).normal(size=D).astype(np.float32)
    return row / np.linalg.norm(row)


def turn(seed: int = 0, *, aside=0.0, ask=0.0, back=0.0, **fields) -> Turn:
    acts = dict.fromkeys(ACTS, 0.0) | {"aside": aside, "ask": ask, "return": back}
    which = np.full(3, 1 / 3, np.float32)
    return Turn(unit(seed), unit(seed), unit(seed), tuple(acts.values()), which, **fields)


def judge(*, keep: float = 0.0, shift: float = 0.0, aside: float = 0.0) -> Judge:
    """Says the same of every turn; the values are logits."""
    logits = np.array([keep, shift, aside], np.float32)
    return Judge(
        np.zeros(F, np.float32), np.ones(F, np.float32), (np.zeros((F, 3), np.float32),), (logits,)
    )


KEEPS, SHIFTS, ASIDES = judge(keep=9), judge(shift=9), judge(aside=9)


def at(*descriptions: str) -> Topic:
    topic = None
    for i, description in enumerate(descriptions):
        topic = begin(topic, description, unit(i), turn(i), source="inferred")
    return topic


def test_first_task():
    """A conversation without a topic begins one with its first turn that is no aside."""
    assert isinstance(follow(None, turn(), KEEPS), Shifted)
    assert isinstance(follow(None, turn(aside=0.9), KEEPS), Aside)


def test_small_talk_goes_on():
    """Without a task so far, what may be small talk is likelier to be some after small talk."""
    assert isinstance(follow(None, turn(aside=0.3), None), Shifted)
    assert isinstance(follow(None, turn(aside=0.3), None, after_aside=True), Aside)


def test_aside_keeps_the_topic():
    """Small talk and a chat UI's prompts go to the base model."""
    topic = at("Translate.")

    assert isinstance(follow(topic, turn(aside=0.9), ASIDES), Aside)
    assert isinstance(follow(topic, turn(is_helper=True), SHIFTS), Aside)


def test_held_turns_choose_no_task():
    """A turn that must not choose a task changes nothing, whatever it looks like."""
    topic = at("Translate.")

    assert follow(topic, turn(seed=5, ask=1.0, is_held=True), SHIFTS) == Kept(topic)


def test_shift():
    """The judge's word is taken if the turn asks, against a system prompt if it surely does."""
    topic = at("Translate.")
    stated = begin(None, "Translate.", unit(0), None, source="system")

    assert isinstance(follow(topic, turn(5), SHIFTS), Kept)
    assert isinstance(follow(topic, turn(5, ask=0.3), SHIFTS), Shifted)
    assert isinstance(follow(stated, turn(5, ask=0.3), SHIFTS), Kept)
    assert isinstance(follow(stated, turn(5, ask=0.9), SHIFTS), Shifted)


def test_another_common_task():
    """That a turn surely means another common task adds to what the judge says."""
    nearly = judge(keep=0.6)
    topic = at("Translate.")
    said = turn(5, ask=0.9)

    assert isinstance(follow(topic, said, nearly), Kept)
    assert isinstance(follow(topic, replace(said, common="Write a poem."), nearly), Shifted)
    assert isinstance(follow(topic, replace(said, common="Translate."), nearly), Kept)


def test_return_to_an_earlier_task():
    """A turn that says it goes back finds the nearest earlier task again."""
    topic = at("a", "b", "c")
    step = follow(topic, turn(1, back=0.9), SHIFTS)

    assert step.back_to.description == "b"


def test_doubt_adds_up():
    """Two turns in a row that nearly shift are a shift; one alone isn't, nor after a sure one."""
    nearly = judge(keep=-0.1)
    first = follow(at("Translate."), turn(5, ask=0.9), nearly)

    assert isinstance(first, Kept)
    assert isinstance(follow(first.topic, turn(6, ask=0.9), nearly), Shifted)
    sure = follow(first.topic, turn(6, ask=0.9), KEEPS)
    assert isinstance(follow(sure.topic, turn(7, ask=0.9), nearly), Kept)


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_following_is_deterministic(seed, aside, ask, back):
    """Equal topics and turns give equal steps."""
    topic, said = at("a", "b"), turn(seed, aside=aside, ask=ask, back=back)
    steps = [follow(topic, said, judge(keep=0.5, shift=ask)) for _ in range(2)]

    assert repr(steps[0]) == repr(steps[1])


def test_earlier_tasks_are_remembered():
    """The newest earlier tasks come first, a few only, each once."""
    topic = at("a", "b", "c", "b", "d", "e", "f")

    assert topic.active.description == "f"
    assert [task.description for task in topic.earlier] == ["e", "d", "b"]
    assert len(topic.earlier) == MAX_EARLIER


def test_returning_keeps_examples():
    """A task that becomes active again still knows its earlier turns."""
    assert at("a", "b", "a").active.turns == 2


def test_json_round_trip():
    """A topic survives being stored; it takes a few kilobytes."""
    topic = at("a", "b", "c")
    stored = json.dumps(topic.to_json())
    loaded = Topic.from_json(json.loads(stored))

    assert loaded.to_json() == topic.to_json()
    assert loaded.active.description == "c"


@pytest.mark.parametrize(
    "raw", [{}, {"tasks": []}, {"tasks": [{}]}, {"tasks": None}, {"tasks": [{"description": "a"}]}]
)
def test_stored_nonsense(raw):
    """Something else in place of a topic is a clear error."""
    with pytest.raises(ValueError, match=r"topic|unpack"):
        Topic.from_json(raw)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_memory_is_bounded(seeds):
    """However long a conversation, its topic stays small and its numbers finite."""
    topic = at("a")
    for seed in seeds:
        step = follow(topic, turn(seed, ask=0.9), SHIFTS if seed % 3 else KEEPS)
        if isinstance(step, Kept):
            topic = step.topic
        elif isinstance(step, Shifted):
            topic = begin(topic, f"task {seed}", unit(seed), turn(seed), source="inferred")

    assert len(topic.earlier) <= MAX_EARLIER
    assert np.isfinite(topic.active.example).all()
    assert len(json.dumps(topic.to_json())) < 4_000
