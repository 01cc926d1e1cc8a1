"""The strategy ``library``: the nearest known task by inputs that are given as its examples."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from t2l_router.describe import validated
from t2l_router.errors import ConfigError, InvalidDescription
from t2l_router.heads import Heads
from t2l_router.inference import Inferred
from t2l_router.inference_head import ASKS, Encoder, HeadInference
from t2l_router.reading import Reading, normalise
from t2l_router.topics import Matrix, Turn, Vector

NEAREST = 3
LEAST_SCORE = 0.3
MAX_EXAMPLES = 64  # a task; more make it slower, not better
MAX_CHARS = 2_000


class LibraryInference(HeadInference):
    """
    Knows tasks by example inputs; requests in the user's own words are read as by ``head``.

    Args:
        encoder: The one that the heads were trained for.
        heads: What was trained.
        examples: Description -> inputs; see `load_examples`.
    """

    def __init__(
        self, encoder: Encoder, heads: Heads, examples: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__(encoder, heads)
        self._tasks = tuple(examples)
        self._embeddings = encoder.embed(self._tasks)
        self._examples = [encoder.embed(examples[task]) for task in self._tasks]

    def infer(self, reading: Reading, *, tenant: str, turn: Turn | None = None) -> Inferred | None:
        """Take the task with the nearest examples, else what ``head`` would."""
        turn = turn or self.turn(reading)
        if turn.states_task < ASKS:
            scores = nearness(turn.embedding, self._examples)
            best = int(scores.argmax())
            if scores[best] >= LEAST_SCORE:
                why = "the nearest task by its example inputs"
                score = float(scores[best])
                return Inferred(self._tasks[best], score, why, self._embeddings[best])
        return super().infer(reading, tenant=tenant, turn=turn)


def nearness(embedding: Vector, examples: Sequence[Matrix]) -> Vector:
    """Give each task's mean cosine of its `NEAREST` examples, ``[N]``."""
    return np.array([np.sort(rows @ embedding)[-NEAREST:].mean() for rows in examples], np.float32)


def load_examples(path: Path) -> dict[str, list[str]]:
    """
    Read examples: JSON lines of ``{"description": ..., "input": ...}``.

    Raises:
        ConfigError: The file can't be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"inference_examples: {path}: {error}") from None
    examples: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            task, text = validated(raw["description"]), normalise(raw["input"][:MAX_CHARS])
        except (ValueError, KeyError, TypeError, InvalidDescription) as error:
            raise ConfigError(
                f"inference_examples, {path}, line {number}: {error!r}; a line looks like "
                '{"description": "...", "input": "..."}'
            ) from None
        known = examples.setdefault(task, [])
        if text and len(known) < MAX_EXAMPLES:
            known.append(text)
    examples = {task: inputs for task, inputs in examples.items() if inputs}
    if not examples:
        raise ConfigError(f"inference_examples: {path} holds no example")
    return examples
