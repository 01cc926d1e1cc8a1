"""
The task of a conversation that nobody described: what strategies of inference have in common.

`hear` has `Inference.turn` read the last user turn. Then it asks in this order:
`Inference.commanded` and `Inference.stated` for the task of the system prompt, `topics.follow`
whether the turn goes on with the session's task, and only where it doesn't, `Inference.infer`.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from t2l_router.reading import Reading
from t2l_router.topics import Aside, Judge, Kept, Source, Topic, Turn, Vector, begin, follow


@dataclass(frozen=True, slots=True)
class Inferred:
    """
    A task that nobody described.

    Args:
        text: The task in words: a validated description.
        score: How sure the strategy is, 0 to 1; comparable within one strategy only.
        why: For people; says nothing about the conversation.
        embedding: Of the text, ``[D]`` float32 of unit L2 norm; None where a new adapter is not
            to be remembered as the session's topic.
        source: Whether the system prompt states the task or it was inferred.
        is_common: The text is the description of a common task.
    """

    text: str
    score: float
    why: str
    embedding: Vector | None = None
    source: Source = "inferred"
    is_common: bool = False


class Inference(Protocol):
    """A strategy; thread-safe."""

    @property
    def judge(self) -> Judge | None:
        """What weighs whether a topic shifts; None where it never does."""

    def stated(self, reading: Reading) -> Inferred | None:
        """Find the task that the system prompt states; None if it states none."""

    def commanded(self, reading: Reading) -> Inferred | None:
        """Find the command of the system prompt that the last turn begins with; None without."""

    def turn(self, reading: Reading) -> Turn:
        """Read the last user turn."""

    def infer(self, reading: Reading, *, tenant: str, turn: Turn | None = None) -> Inferred | None:
        """
        Find the task that the last user turn is at.

        Args:
            reading: What may be read.
            tenant: Whose library may be looked at.
            turn: What `turn` gave for it, if that was asked for.

        Returns:
            None if no task can be told.
        """


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
        topic: What the session remembers; None at its first task. What other heads or another
            encoder made of it counts as nothing.
        tenant: Whose library may be looked at.
    """
    turn = inference.turn(reading)
    if topic is not None and not topic.fits(turn):
        topic = None
    told = None if reading.is_tampered else inference.commanded(reading)
    if told is not None:
        return _at(told, topic, turn)
    stated = None
    before = topic
    if topic is None and (stated := inference.stated(reading)) is not None:
        assert stated.embedding is not None, "what a system prompt states is embedded"
        topic = begin(None, stated.text, stated.embedding, None, source="system")
    after_aside = topic is None and _was_aside(inference, reading)
    step = follow(topic, turn, inference.judge, after_aside=after_aside)
    if isinstance(step, Aside):
        return Heard(None, topic, step.why)
    if isinstance(step, Kept):
        task = step.topic.active
        why = "goes on with the task" if stated is None else stated.why
        return Heard(task.description, step.topic, why, kept=before is not None, inferred=stated)
    if (back := step.back_to) is not None:
        known = begin(topic, back.description, back.embedding, turn, source=back.source)
        return Heard(back.description, known, step.why)
    found = inference.infer(reading, tenant=tenant, turn=turn)
    if found is None:
        return Heard(None, topic, "no task can be told")
    kept = before is not None and before.active.description == found.text
    return replace(_at(found, topic, turn), kept=kept)


def _at(found: Inferred, topic: Topic | None, turn: Turn) -> Heard:
    """A turn at a task that was just found."""
    if found.embedding is None:
        return Heard(found.text, topic, found.why, inferred=found)
    kept = topic is not None and topic.active.description == found.text
    at = begin(topic, found.text, found.embedding, turn, source=found.source)
    return Heard(found.text, at, found.why, kept=kept, inferred=found)


def _was_aside(inference: Inference, reading: Reading) -> bool:
    """Whether the turn before the last was an aside; nothing but the reading remembers it."""
    if len(reading.turns) < 2:  # noqa: PLR2004
        return False
    earlier = inference.turn(replace(reading, turns=reading.turns[:-1], is_helper=False))
    return isinstance(follow(None, earlier, None), Aside)
