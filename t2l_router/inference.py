"""
The task of a conversation that nobody described: what strategies of inference have in common.

`hear` asks in this order: `Inference.turn` reads the last user turn, `topics.follow` says whether
it goes on with the session's task, and only where it doesn't, `Inference.infer` finds the task.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from t2l_router.reading import Reading
from t2l_router.topics import Aside, Kept, Source, Topic, Turn, Vector, begin, follow


@dataclass(frozen=True, slots=True)
class Inferred:
    """
    A task that nobody described.

    Args:
        text: The task in words: a validated description.
        score: How sure the strategy is, 0 to 1; comparable within one strategy only.
        why: For people; says nothing about the conversation.
        embedding: Of the text, ``[D]`` float32 of unit L2 norm, where it is at hand.
        source: Whether the system prompt states the task or it was inferred.
    """

    text: str
    score: float
    why: str
    embedding: Vector | None = None
    source: Source = "inferred"


class Inference(Protocol):
    """A strategy; thread-safe."""

    def turn(self, reading: Reading) -> Turn:
        """Read the last user turn: one text to encode."""

    def infer(
        self, reading: Reading, *, tenant: str, turn: Turn | None = None, shifted: bool = False
    ) -> Inferred | None:
        """
        Find the conversation's task.

        Args:
            reading: What may be read.
            tenant: Whose library may be looked at.
            turn: What `turn` gave for it, if that was asked for.
            shifted: The conversation left its first task, so that the system prompt and the
                turns before the last no longer speak for it.

        Returns:
            None if no task can be told.
        """


class NoInference:
    """The strategy ``off``: tasks are described or there is none."""

    def turn(self, reading: Reading) -> Turn:
        """Give a turn that never shifts a topic."""
        return Turn(
            np.zeros(1, np.float32),
            is_helper=reading.is_helper,
            is_held=True,
        )

    def infer(
        self,
        reading: Reading,  # noqa: ARG002
        *,
        tenant: str,  # noqa: ARG002
        turn: Turn | None = None,  # noqa: ARG002
        shifted: bool = False,  # noqa: ARG002
    ) -> None:
        """Infer nothing."""
        return


@dataclass(frozen=True, slots=True)
class Heard:
    """
    What a conversation asks for now.

    Args:
        description: The task; None is the base model's turn.
        topic: What the session is to remember, whoever answers.
        why: For people; says nothing about the conversation.
        kept: The task is the one that the session held before.
        inferred: What inference gave, if it was asked.
    """

    description: str | None
    topic: Topic | None
    why: str
    kept: bool = False
    inferred: Inferred | None = None


def hear(inference: Inference, reading: Reading, topic: Topic | None, *, tenant: str) -> Heard:
    """
    Find out a conversation's task; encodes text, so that it belongs in a thread.

    Args:
        inference: The strategy.
        reading: What may be read.
        topic: What the session remembers; None at its first task.
        tenant: Whose library may be looked at.
    """
    turn = inference.turn(reading)
    step = follow(topic, turn)
    if isinstance(step, Aside):
        return Heard(None, topic, step.why)
    if isinstance(step, Kept):
        return Heard(step.topic.active.description, step.topic, "goes on", kept=True)
    if (back := step.back_to) is not None:
        known = begin(topic, back.description, back.embedding, turn, source=back.source)
        return Heard(back.description, known, step.why)
    found = inference.infer(reading, tenant=tenant, turn=turn, shifted=topic is not None)
    if found is None:
        return Heard(None, topic, "no task can be told")
    if found.embedding is None:
        return Heard(found.text, topic, found.why, inferred=found)
    fresh = begin(topic, found.text, found.embedding, turn, source=found.source)
    same = topic is not None and topic.active.description == found.text
    return Heard(found.text, fresh, found.why, kept=same, inferred=found)
