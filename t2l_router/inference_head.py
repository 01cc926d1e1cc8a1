"""The strategy ``head``: trained heads over the encoder's embedding; no language model is asked."""

import re
from collections.abc import Sequence
from typing import Protocol

from t2l_router.describe import MAX_CHARS, validated
from t2l_router.errors import InvalidDescription
from t2l_router.guard import contradictions
from t2l_router.heads import Heads
from t2l_router.inference import Inferred
from t2l_router.reading import Reading
from t2l_router.topics import Matrix, Turn
from t2l_router.turns import request_part

STATES_TASK = 0.5
MAX_SENTENCES = 24
ASKS = 0.5  # from here on a turn is taken to say what to do
SURE = 0.5  # from here on the heads' word for a known task is taken
SAME_TASK = 0.6  # a request this near to a known description means that task
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
        return Inferred(
            text, float(sure.max()), "the system prompt states the task", embedding, "system"
        )

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
        likely = turn.which + heads.task_embeddings @ turn.request
        best = int(likely.argmax())
        known = Inferred(
            heads.tasks[best],
            float(turn.which[best]),
            "the nearest task known beforehand",
            heads.task_embeddings[best],
        )
        if turn.states_task < ASKS:
            return known
        near = float(heads.task_embeddings[best] @ turn.request)
        surely = turn.which[best] >= SURE or near >= SAME_TASK
        if surely and not contradictions(request, heads.tasks[best]):
            return known
        return Inferred(request, turn.states_task, "the turn says what to do", turn.request)


def _description(text: str) -> str | None:
    """Make it a valid description, if it can be one."""
    try:
        return validated(text[:MAX_CHARS])
    except InvalidDescription:
        return None
