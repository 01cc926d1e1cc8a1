import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.topics import MAX_EARLIER, Aside, Kept, Shifted, Topic, Turn, begin, follow

D = 8


def unit(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).normal(size=D).astype(np.float32)
    return row / np.linalg.norm(row)


def turn(seed: int = 0, **fields) -> Turn:
    return Turn(unit(seed), **fields)


def at(*descriptions: str) -> Topic:
    topic = None
    for i, description in enumerate(descriptions):
        topic = begin(topic, description, unit(i), turn(i), source="inferred")
    return topic


def test_first_task():
    """A conversation without a topic begins one with its first turn that is no aside."""
    assert isinstance(follow(None, turn()), Shifted)
    assert isinstance(follow(None, turn(aside=0.9)), Aside)


def test_aside_keeps_the_topic():
    """Small talk and a chat UI's prompts go to the base model."""
    topic = at("Translate.")

    assert isinstance(follow(topic, turn(aside=0.99)), Aside)
    assert isinstance(follow(topic, turn(is_helper=True)), Aside)


def test_held_turns_choose_no_task():
    """A turn that must not choose a task changes nothing, whatever it looks like."""
    topic = at("Translate.")

    assert follow(topic, turn(seed=5, states_task=1.0, is_held=True)) == Kept(topic)


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
        step = follow(topic, turn(seed, states_task=seed / 50))
        if isinstance(step, Kept):
            topic = step.topic
        elif isinstance(step, Shifted):
            topic = begin(topic, f"task {seed}", unit(seed), turn(seed), source="inferred")

    assert len(topic.earlier) <= MAX_EARLIER
    assert np.isfinite(topic.active.example).all()
    assert len(json.dumps(topic.to_json())) < 4_000
