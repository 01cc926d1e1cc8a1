"""
What a conversation is about, turn by turn: values in, one value out.

A session remembers the task it is at and a few it was at before.
Each user turn either goes on with the active task, is an aside that the base model answers while
the task stays, or shifts to another task, perhaps back to an earlier one.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2l_router.cues import CUES
from t2l_router.turns import ACTS

MAX_EARLIER = 3

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Source = Literal["system", "inferred"]


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What one user turn looks like to the heads that read it; vectors are of unit L2 norm.

    Args:
        embedding: Of all that the user says, ``[D]`` float32.
        request: Of the part that asks for something, ``[D]``.
        task: The request moved to where its task's description would be, ``[D]``.
        acts: How surely it is each of `turns.ACTS`, 0 to 1.
        which: How surely it is at each task known beforehand, ``[N]``, 0 to 1.
        common: The description of the common task that it surely means; None if it means none.
        nearest: Score of the best among the tasks known beforehand.
        known: Descriptions of those tasks, in the order of *which*.
        cues: What its small words say, see `cues.CUES`.
        words: How many.
        has_material: It holds more than the request.
        is_helper: It is a chat UI's own prompt.
        is_held: It must not choose a task: amid a tool call, or with text left out that posed as
            another role.
    """

    embedding: Vector
    request: Vector
    task: Vector
    acts: tuple[float, ...]
    which: Vector
    common: str | None = None
    nearest: float = 0.0
    known: tuple[str, ...] = ()
    cues: tuple[float, ...] = (0.0,) * len(CUES)
    words: int = 0
    has_material: bool = False
    is_helper: bool = False
    is_held: bool = False

    @property
    def aside(self) -> float:
        """How surely it is small talk or about the assistant itself, 0 to 1."""
        return self.acts[ACTS.index("aside")]

    @property
    def states_task(self) -> float:
        """How surely it says what to do, rather than being something to do it with, 0 to 1."""
        return self.acts[ACTS.index("ask")]


@dataclass(frozen=True, slots=True)
class TopicTask:
    """
    A task that a conversation is or was at.

    Args:
        description: In words.
        source: Who named it: the system prompt, or inference from the user's turns.
        embedding: Of the description, ``[D]`` float32 of unit L2 norm.
        example: Mean of the embeddings of its turns, ``[D]``; zeros before the first.
        example_task: The same of `Turn.task`.
        which: The same of `Turn.which`, ``[N]``.
        turns: How many turns there were.
    """

    description: str
    source: Source
    embedding: Vector
    example: Vector
    example_task: Vector
    which: Vector
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Topic:
    """
    What a session remembers.

    Args:
        active: The task it is at.
        earlier: The ones before, the newest first, at most `MAX_EARLIER`.
        doubt: How much the last turn looked like a shift without being taken for one, 0 to 1.
    """

    active: TopicTask
    earlier: tuple[TopicTask, ...] = ()
    doubt: float = 0.0

    def fits(self, turn: Turn) -> bool:
        """Whether its vectors are of the form that the turn's are; other heads have another."""
        return all(
            task.embedding.shape == turn.task.shape
            and (task.turns == 0 or task.which.shape == turn.which.shape)
            for task in (self.active, *self.earlier)
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values, about 4 kB a task."""
        tasks = [_task_to_json(task) for task in (self.active, *self.earlier)]
        return {"tasks": tasks, "doubt": self.doubt}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Topic":
        """
        Read what `to_json` gave.

        Raises:
            ValueError: It is something else.
        """
        try:
            active, *earlier = (_task_from_json(task) for task in raw["tasks"])
            return cls(active, tuple(earlier[:MAX_EARLIER]), float(raw["doubt"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a topic: {error!r}") from None


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


@dataclass(frozen=True, slots=True)
class Judge:
    """
    Weighs a turn's evidence: a trained perceptron over `evidence`.

    Args:
        mean: ``[F]``, what is subtracted first.
        deviation: ``[F]``, what is divided by.
        weights: ``[d_in, d_out]`` each; GELU between two.
        biases: ``[d_out]`` each.
    """

    mean: Vector
    deviation: Vector
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[Vector, ...]

    def __call__(self, evidence: Vector) -> tuple[float, float, float]:
        """Give the probabilities of going on, of a shift and of an aside."""
        row = (evidence - self.mean) / self.deviation
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            row = row @ weight + bias
            if i + 1 < len(self.weights):
                row = (
                    row * np.float32(0.5) * (1 + np.tanh(0.7978845608 * (row + 0.044715 * row**3)))
                )
        powers = np.exp(row - row.max())
        keep, shift, aside = (float(p) for p in powers / powers.sum())
        return keep, shift, aside


ASIDE = 0.3
FIRST_ASIDE = 0.35  # without any task so far, small talk is likelier
AGAIN_ASIDE = 0.2  # and more so after small talk
SHIFT = 0.55
RETURN = 0.4
ASKS, OVERRIDES = 0.1, 0.4  # less than that is no request; the second, against a system prompt
NOVEL = 0.3  # what it adds that a turn means another common task
DOUBT = 0.25  # share of the last turn's doubt that adds to a turn's own


def follow(  # noqa: PLR0911 - each case is one line of its answer
    topic: Topic | None, turn: Turn, judge: Judge | None, *, after_aside: bool = False
) -> Step:
    """
    Say what a turn does to the topic.

    Args:
        topic: What the session remembers; None at its first task.
        turn: The last user turn, as read.
        judge: Weighs the evidence for a shift; None where topics never shift.
        after_aside: Without a topic: whether the turn before was an aside.
    """
    if turn.is_helper:
        return Aside("a chat UI's own prompt")
    if topic is None:
        if turn.aside > (AGAIN_ASIDE if after_aside else FIRST_ASIDE):
            return Aside("small talk")
        return Shifted("the first task of the conversation")
    if turn.is_held or judge is None:
        return Kept(topic)
    keep, shift, aside = judge(evidence(topic, turn))
    if (aside + turn.aside) / 2 > ASIDE:
        return Aside("small talk")
    own = shift / (keep + shift)
    if turn.common not in (None, topic.active.description):
        own += NOVEL
    asks = turn.states_task + turn.acts[ACTS.index("return")]
    # Whatever comes is done with the task that is there, unless it asks for something.
    if asks < (OVERRIDES if topic.active.source == "system" else ASKS):
        return Kept(counted(topic, turn))
    if own + DOUBT * topic.doubt <= SHIFT:
        return Kept(replace(counted(topic, turn), doubt=own))
    back_to = max(topic.earlier, key=lambda task: _nearness(task, turn), default=None)
    if back_to is not None and turn.acts[ACTS.index("return")] > RETURN:
        return Shifted("back to an earlier task", back_to)
    return Shifted("the turn is at another task")


def evidence(topic: Topic, turn: Turn) -> Vector:
    """Give what speaks for and against a shift, ``[F]`` float32; similarities are cosines."""
    task = topic.active
    acts = [_log(p) - _log(1 - p) for p in turn.acts]
    own = float(turn.task @ task.embedding)
    here = _nearness(task, turn)
    elsewhere = max((_nearness(other, turn) for other in topic.earlier), default=here - 1)
    return np.array(
        [
            *acts,
            float(turn.request @ task.embedding),
            float(turn.embedding @ task.embedding),
            own,
            turn.nearest - own,
            turn.nearest,
            _cosine(turn.embedding, task.example),
            _cosine(turn.task, task.example_task),
            _log(_agreement(task, turn)),
            _log(float(turn.which.max(initial=0.0))),
            elsewhere - here,
            float(task.source == "system"),
            float(task.turns > 0),
            min(turn.words, 20) / 20,
            float(turn.has_material),
            float(bool(topic.earlier)),
            *_at_known(task, turn),
            float(turn.common is not None),
            float(turn.common == task.description),
            *turn.cues,
        ],
        dtype=np.float32,
    )


def _agreement(task: TopicTask, turn: Turn) -> float:
    """How likely the turn and the task's turns are at the same known task, 0 to 1."""
    return float(turn.which @ task.which) if task.turns else 0.0


def _at_known(task: TopicTask, turn: Turn) -> tuple[float, float, float]:
    """How likely the turn is at the task, if that is a known one, and at the best other."""
    which = turn.which
    if task.description not in turn.known:
        return 0.0, _log(0.0), _log(float(which.max(initial=0.0)))
    own = turn.known.index(task.description)
    others = np.delete(which, own)
    return 1.0, _log(float(which[own])), _log(float(others.max(initial=0.0)))


def _log(probability: float) -> float:
    return math.log(probability + 0.01)


def _nearness(task: TopicTask, turn: Turn) -> float:
    return float(turn.task @ task.embedding) + _cosine(turn.task, task.example_task)


def _cosine(unit: Vector, mean: Vector) -> float:
    return float(unit @ mean) / max(float(np.linalg.norm(mean)), 1e-6)


def begin(
    topic: Topic | None, description: str, embedding: Vector, turn: Turn | None, *, source: Source
) -> Topic:
    """
    Make a task the active one; the one before is remembered.

    Args:
        topic: As it was; None at the first task.
        description: The new task in words.
        embedding: Of it.
        turn: The turn that began it; None for a task that only the system prompt states so far.
        source: Who named the task.
    """
    known = () if topic is None else (topic.active, *topic.earlier)
    same = [task for task in known if task.description == description]
    rest = tuple(task for task in known if task.description != description)
    if same:
        active = same[0]
    else:
        nothing, nowhere = np.zeros_like(embedding), np.zeros(0, np.float32)
        active = TopicTask(description, source, embedding, nothing, nothing, nowhere)
    begun = Topic(active, rest[:MAX_EARLIER])
    return begun if turn is None else counted(begun, turn)


def counted(topic: Topic, turn: Turn) -> Topic:
    """Count a turn among the active task's examples; the means forget old ones slowly."""
    task = topic.active
    share = np.float32(1 / min(task.turns + 1, 8))
    counted_in = replace(
        task,
        example=task.example + (turn.embedding - task.example) * share,
        example_task=task.example_task + (turn.task - task.example_task) * share,
        which=task.which + (turn.which - task.which) * share if task.turns else turn.which,
        turns=task.turns + 1,
    )
    return replace(topic, active=counted_in, doubt=0.0)


def _task_to_json(task: TopicTask) -> dict[str, Any]:
    return {
        "description": task.description,
        "source": task.source,
        "embedding": _pack(task.embedding),
        "example": _pack(task.example),
        "example_task": _pack(task.example_task),
        "which": _pack(task.which),
        "turns": task.turns,
    }


def _task_from_json(raw: Mapping[str, Any]) -> TopicTask:
    if raw["source"] not in ("system", "inferred"):
        raise ValueError(f"not a topic: no source {raw['source']!r}")
    return TopicTask(
        str(raw["description"]),
        raw["source"],
        _unpack(raw["embedding"]),
        _unpack(raw["example"]),
        _unpack(raw["example_task"]),
        _unpack(raw["which"]),
        int(raw["turns"]),
    )


def _pack(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def _unpack(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
