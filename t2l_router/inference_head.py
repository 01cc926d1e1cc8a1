"""The strategy ``head``: trained heads over the encoder's embedding; no language model is asked."""

import re
from collections.abc import Sequence
from typing import Protocol

from t2l_router.commands import chosen, commands
from t2l_router.common_tasks import common_task
from t2l_router.cues import cues
from t2l_router.describe import MAX_CHARS, validated
from t2l_router.errors import InvalidDescription
from t2l_router.heads import Heads
from t2l_router.inference import Inferred
from t2l_router.reading import Reading
from t2l_router.topics import Matrix, Turn, Vector
from t2l_router.turns import request_part

STATES_TASK = 0.5
MAX_SENTENCES = 24
ASKS = 0.5  # from here on a turn is taken to say what to do
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+")


class Encoder(Protocol):
    """Turns texts into embeddings."""

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embed texts as ``[N, D]`` float32 of unit L2 norm."""


class HeadInference:
    """
    Reads turns with trained heads.

    Args:
        encoder: The one that the heads were trained for.
        heads: What was trained.
    """

    def __init__(self, encoder: Encoder, heads: Heads) -> None:
        self._encoder = encoder
        self._heads = heads
        self.judge = heads.judge

    def stated(self, reading: Reading) -> Inferred | None:
        """Find the sentences of the system prompt that state a task."""
        if reading.system is None:
            return None
        sentences = [s for s in _SENTENCE.split(reading.system) if any(map(str.isalpha, s))]
        sentences = sentences[:MAX_SENTENCES]
        if not sentences:
            return None
        embeddings = self._encoder.embed(sentences)
        sure = self._heads.states_task(embeddings, sentences)
        stating = [s for s, p in zip(sentences, sure, strict=True) if p > STATES_TASK]
        text = _description(" ".join(stating))
        if text is None:
            return None
        embedding = embeddings[int(sure.argmax())]
        if len(stating) > 1:
            (embedding,) = self._encoder.embed([text])
        return self._of_system(text, embedding, float(sure.max()))

    def commanded(self, reading: Reading) -> Inferred | None:
        """Find the command of the system prompt that the last turn begins with."""
        if reading.system is None or (marks := commands(reading.system)) == {}:
            return None
        text = _description(chosen(marks, reading.last) or "")
        if text is None:
            return None
        (embedding,) = self._encoder.embed([text])
        return self._of_system(text, embedding, 1.0)

    def turn(self, reading: Reading) -> Turn:
        """Read the last user turn: one text to encode, two where it brings its material along."""
        text = reading.last
        request = request_part(text)
        texts = [text] if request == text else [text, request]
        embeddings = self._encoder.embed(texts)
        (task,) = self._heads.in_task_space(embeddings[-1:])
        acts = self._heads.read_acts(embeddings[-1:], [request])[0]
        (which,) = self._heads.which_task(embeddings[-1:], [request])
        return Turn(
            embeddings[0],
            embeddings[-1],
            task,
            tuple(float(p) for p in acts),
            which,
            common=common_task(self._heads, request, embeddings[-1], which),
            known=self._heads.tasks,
            cues=cues(request),
            nearest=float((self._heads.task_embeddings @ task - self._heads.task_bias).max()),
            words=len(text.split()),
            has_material=len(texts) > 1,
            is_helper=reading.is_helper,
            is_held=reading.in_tool_loop or reading.is_tampered,
        )

    def infer(
        self,
        reading: Reading,
        *,
        tenant: str,  # noqa: ARG002 - knows no library
        turn: Turn | None = None,
    ) -> Inferred | None:
        """Take a task known beforehand if it surely is one, else the user's own words."""
        turn = turn or self.turn(reading)
        heads = self._heads
        request = _description(request_part(reading.last))
        if request is None:
            return None
        best = int((turn.which + heads.task_embeddings @ turn.request).argmax())
        if turn.states_task < ASKS and best not in heads.wide:
            known, score = heads.tasks[best], float(turn.which[best])
            embedding = heads.task_embeddings[best]
            return Inferred(known, score, "the nearest common task", embedding, is_common=True)
        if turn.common is not None:
            embedding = self._described(turn.common)
            score = float(turn.which.max())
            return Inferred(turn.common, score, "a common task", embedding, is_common=True)
        return Inferred(request, turn.states_task, "the turn says what to do", turn.request)

    def _of_system(self, text: str, embedding: Vector, sure: float) -> Inferred:
        """What a system prompt states, in the words of a common task if it surely is one."""
        why = "the system prompt states the task"
        (which,) = self._heads.which_task(embedding[None], [text])
        if (known := common_task(self._heads, text, embedding, which)) is not None:
            why = f"{why}, a common one"
            return Inferred(known, sure, why, self._described(known), "system", is_common=True)
        return Inferred(text, sure, why, embedding, "system")

    def _described(self, task: str) -> Vector:
        """The embedding of a common task's description."""
        if task in self._heads.tasks:
            row: Vector = self._heads.task_embeddings[self._heads.tasks.index(task)]
            return row
        embedded: Vector = self._encoder.embed([task])[0]
        return embedded


def _description(text: str) -> str | None:
    """Make it a valid description, if it can be one."""
    try:
        return validated(text[:MAX_CHARS])
    except InvalidDescription:
        return None
