"""
What a conversation is about, turn by turn: values in, one value out.

A session remembers the task it is at and a few it was at before.
Each user turn either goes on with the active task, is an aside that the base model answers while
the task stays, or shifts to another task, perhaps back to an earlier one.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_EARLIER = 3

Vector = NDArray[np.float32]
Source = Literal["system", "inferred"]


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What one user turn looks like to the heads that read it.

    Args:
        embedding: Of what the user says, ``[D]`` float32 of unit L2 norm.
        aside: How surely it is small talk or about the assistant itself, 0 to 1.
        states_task: How surely it says what to do, rather than being something to do it with,
            0 to 1.
        is_helper: It is a chat UI's own prompt.
        is_held: It must not choose a task: amid a tool call, or with text left out that posed as
            another role.
    """

    embedding: Vector
    aside: float = 0.0
    states_task: float = 0.0
    is_helper: bool = False
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class TopicTask:
    """
    A task that a conversation is or was at.

    Args:
        description: In words.
        source: Who named it: the system prompt, or inference from the user's turns.
        embedding: Of the description, ``[D]`` float32 of unit L2 norm.
        example: Mean of the embeddings of its turns, ``[D]``; zeros before the first.
        turns: How many turns the mean is over.
    """

    description: str
    source: Source
    embedding: Vector
    example: Vector
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Topic:
    """What a session remembers: the active task and the latest earlier ones, the newest first."""

    active: TopicTask
    earlier: tuple[TopicTask, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give plain values, about 4 kB a task."""
        return {"tasks": [_task_to_json(task) for task in (self.active, *self.earlier)]}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Topic":
        """
        Read what `to_json` gave.

        Raises:
            ValueError: It is something else.
        """
        try:
            active, *earlier = (_task_from_json(task) for task in raw["tasks"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a topic: {error!r}") from None
        return cls(active, tuple(earlier[:MAX_EARLIER]))


@dataclass(frozen=True, slots=True)
class Kept:
    """The turn goes on with the active task; *topic* counts it in."""

    topic: Topic


@dataclass(frozen=True, slots=True)
class Shifted:
    """
    The turn is at another task.

    Args:
        why: For people; says nothing about the conversation.
        back_to: The earlier task that it returns to; None means that the task is to be inferred.
    """

    why: str
    back_to: TopicTask | None = None


@dataclass(frozen=True, slots=True)
class Aside:
    """The base model answers; the session's topic, if any, stays as it is."""

    why: str


Step = Kept | Shifted | Aside


def follow(topic: Topic | None, turn: Turn) -> Step:
    """
    Say what a turn does to the topic.

    Args:
        topic: What the session remembers; None at its first task.
        turn: The last user turn, as read.
    """
    if turn.is_helper:
        return Aside("a chat UI's own prompt")
    if turn.is_held and topic is not None:
        return Kept(topic)
    if turn.aside > ASIDE:
        return Aside("small talk")
    if topic is None:
        return Shifted("the first task of the conversation")
    return Kept(counted(topic, turn))


ASIDE = 0.5


def begin(
    topic: Topic | None, description: str, embedding: Vector, turn: Turn, *, source: Source
) -> Topic:
    """
    Make a task the active one; the one before is remembered.

    Args:
        topic: As it was; None at the first task.
        description: The new task in words.
        embedding: Of it.
        turn: The turn that began it.
        source: Who named the task.
    """
    fresh = TopicTask(description, source, embedding, np.zeros_like(embedding))
    known = () if topic is None else (topic.active, *topic.earlier)
    same = [task for task in known if task.description == description]
    rest = tuple(task for task in known if task.description != description)
    return counted(Topic(same[0] if same else fresh, rest[:MAX_EARLIER]), turn)


def counted(topic: Topic, turn: Turn) -> Topic:
    """Count a turn among the active task's examples; the mean forgets old ones slowly."""
    task = topic.active
    turns = task.turns + 1
    example = task.example + (turn.embedding - task.example) / np.float32(min(turns, 8))
    return replace(topic, active=replace(task, example=example, turns=turns))


def _task_to_json(task: TopicTask) -> dict[str, Any]:
    return {
        "description": task.description,
        "source": task.source,
        "embedding": _pack(task.embedding),
        "example": _pack(task.example),
        "turns": task.turns,
    }


def _task_from_json(raw: Mapping[str, Any]) -> TopicTask:
    if raw["source"] not in ("system", "inferred"):
        raise ValueError(f"not a topic: no source {raw['source']!r}")
    embedding, example = _unpack(raw["embedding"]), _unpack(raw["example"])
    return TopicTask(str(raw["description"]), raw["source"], embedding, example, int(raw["turns"]))


def _pack(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _unpack(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
