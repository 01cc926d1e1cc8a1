"""
The training pack: every example tokenised once, every description embedded once, in one file.

Half of the batches' examples carry no instruction (definition dropout): only the adapter, and so
only the description's embedding, can tell the task.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

PLAIN, INSTRUCTED = 0, 1
RICH, TERSE, FULL = 0, 1, 2


@dataclass(frozen=True)
class Pack:
    """
    Tokenised examples and embedded descriptions of a set of tasks.

    Args:
        tokens: All examples' token ids, one after another.
        starts: ``[N + 1]`` where each example begins.
        answers: ``[N]`` tokens of each example's answer, end-of-turn included.
        tasks: ``[N]`` the task of each example.
        kinds: ``[N]`` `PLAIN` or `INSTRUCTED`.
        embeddings: ``[M, D]`` description embeddings, unit L2 norm.
        embedding_tasks: ``[M]`` the task of each description.
        terse: ``[M]`` the style: `RICH`, `TERSE`, or `FULL`, the definition, which only those who
            read tokens are shown.
        facts: What it was made from: ``base_model``, ``base_fingerprint``, ``encoder``,
            ``encoder_fingerprint``, ``tasks`` (names), ``descriptions`` (the M texts, normalised).
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    answers: NDArray[np.int32]
    tasks: NDArray[np.int32]
    kinds: NDArray[np.int8]
    embeddings: NDArray[np.float32]
    embedding_tasks: NDArray[np.int32]
    terse: NDArray[np.int8]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the pack as one safetensors file, embeddings in half precision."""
        arrays = {name: value for name, value in vars(self).items() if name != "facts"}
        arrays["embeddings"] = self.embeddings.astype(np.float16)
        if self.tokens.max() < np.iinfo(np.uint16).max:
            arrays["tokens"] = self.tokens.astype(np.uint16)
        save_file(arrays, path, metadata={"facts": json.dumps(self.facts)})

    @classmethod
    def load(cls, path: Path) -> "Pack":
        """Read a pack that `save` wrote."""
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(file.metadata()["facts"])
        arrays["tokens"] = arrays["tokens"].astype(np.int32)
        arrays["embeddings"] = arrays["embeddings"].astype(np.float32)
        return cls(**arrays, facts=facts)


@dataclass(frozen=True)
class Batch:
    """
    T tasks, each one row of packed examples.

    Args:
        input_ids: ``[T, S]`` int64.
        position_ids: ``[T, S]`` int64, starting over with each example.
        label_at: ``[K]`` int64, flat positions whose next token is an answer's.
        labels: ``[K]`` int64, those next tokens.
        weights: ``[K]`` float32, sum 1: tasks weigh the same, and in them examples.
        embeddings: ``[T, D]`` float32, one description's embedding a task.
        descriptions: T indices: which of the pack's descriptions those are.
        real_tokens: Tokens that aren't filler.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    label_at: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    embeddings: torch.Tensor
    descriptions: tuple[int, ...]
    real_tokens: int

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device without waiting for them."""
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


class Sampler:
    """
    Draws batches; the batch of a step depends on seed and step only, so a run can be resumed.

    Args:
        pack: What to draw from.
        tasks_per_step: T.
        row_tokens: S, the length of a row.
        plain: Share of examples without instruction.
        terse: Share of rows whose description is a terse one.
        mix: Share of rows whose embedding lies between two descriptions of the task.
        seed: Of the run.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        tasks_per_step: int,
        row_tokens: int,
        plain: float = 0.5,
        terse: float = 0.35,
        mix: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._pack = pack
        self._shape = (tasks_per_step, row_tokens)
        self._plain, self._terse, self._mix, self._seed = plain, terse, mix, seed
        self._examples = [groups_of(pack.tasks, pack.kinds, kind) for kind in (PLAIN, INSTRUCTED)]
        self._descriptions = [
            groups_of(pack.embedding_tasks, pack.terse, style) for style in (RICH, TERSE)
        ]
        self._task_ids = sorted(self._examples[PLAIN])

    def batch(self, step: int) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        n_tasks, row_tokens = self._shape
        repeat = n_tasks > len(self._task_ids)
        tasks = rng.choice(self._task_ids, n_tasks, replace=repeat)
        input_ids = np.zeros(self._shape, np.int64)
        # Filler counts on from 0 as an example of its own, so that nothing attends to it.
        position_ids = np.broadcast_to(np.arange(row_tokens), self._shape).copy()
        labels: list[tuple[NDArray[np.int64], NDArray[np.int64], float]] = []
        real = 0
        for row, task in enumerate(tasks):
            chosen = self._fill(int(task), rng, self._plain)
            at = 0
            for example in chosen:
                start, end = self._pack.starts[example : example + 2]
                size = int(end - start)
                input_ids[row, at : at + size] = self._pack.tokens[start:end]
                position_ids[row, at : at + size] = np.arange(size)
                answer = int(self._pack.answers[example])
                where = np.arange(at + size - answer, at + size)
                weight = 1 / (n_tasks * len(chosen) * answer)
                labels.append((row * row_tokens + where - 1, input_ids[row, where], weight))
                at += size
            position_ids[row, at:] = np.arange(row_tokens - at)
            real += at
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            torch.from_numpy(np.concatenate([at for at, _, _ in labels])),
            torch.from_numpy(np.concatenate([ids for _, ids, _ in labels])),
            torch.from_numpy(
                np.concatenate([np.full(len(at), w, np.float32) for at, _, w in labels])
            ),
            *self._describe(tasks, rng),
            real,
        )

    def _fill(self, task: int, rng: np.random.Generator, plain: float) -> list[int]:
        """Choose different examples of a task until the row is full."""
        pools = [
            rng.permutation(self._examples[kind].get(task, NONE))[:_ROW_MOST].tolist()
            for kind in (PLAIN, INSTRUCTED)
        ]
        chosen: list[int] = []
        room, misses = self._shape[1], 0
        while misses < 3 and any(pools):  # noqa: PLR2004 - a few tries fill rows to the brim
            pool = pools[PLAIN if rng.random() < plain else INSTRUCTED]
            pool = pool or pools[PLAIN] or pools[INSTRUCTED]
            example = int(pool.pop())
            size = int(self._pack.starts[example + 1] - self._pack.starts[example])
            if size > room:
                misses += 1
                continue
            chosen.append(example)
            room -= size
        return chosen

    def _describe(
        self, tasks: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        chosen = np.array([self._description(int(task), rng) for task in tasks])
        rows = self._pack.embeddings[chosen]
        for row, task in enumerate(tasks):
            if rng.random() < self._mix:
                share = rng.random()
                other = self._pack.embeddings[self._description(int(task), rng)]
                rows[row] = share * rows[row] + (1 - share) * other
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return torch.from_numpy(unit.astype(np.float32)), tuple(chosen.tolist())

    def _description(self, task: int, rng: np.random.Generator) -> int:
        kind = int(rng.random() < self._terse)
        group = self._descriptions[kind].get(task, NONE)
        if not len(group):
            group = self._descriptions[1 - kind][task]
        return int(rng.choice(group))


NONE: NDArray[np.int64] = np.empty(0, np.int64)
_ROW_MOST = 48  # examples considered for a row; a row of 512 tokens rarely takes more


def groups_of(
    tasks: NDArray[np.int32], kinds: NDArray[np.int8], kind: int
) -> dict[int, NDArray[np.int64]]:
    """Indices of one kind by task."""
    chosen = np.flatnonzero(kinds == kind)
    order = chosen[np.argsort(tasks[chosen], kind="stable")]
    ids, first = np.unique(tasks[order], return_index=True)
    if not len(ids):
        return {}
    return dict(zip(ids.tolist(), np.split(order, first[1:]), strict=True))
