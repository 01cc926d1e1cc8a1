"""Task embeddings of oracle LoRAs, to train on and to test with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2l_router.errors import ConfigError
from training.oracle_file import Oracles


@dataclass(frozen=True)
class Batch:
    """
    Some tasks' embeddings.

    Args:
        embeddings: ``[T, D]`` float32.
        rows: ``[T]`` int64, the tasks.
        real_tokens: Always 0.
    """

    embeddings: Tensor
    rows: Tensor
    real_tokens: int = 0

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device."""
        return Batch(self.embeddings.to(device), self.rows.to(device))


class Descriptions:
    """
    Task embeddings to train on and to test with.

    Args:
        oracles: Hold the tasks' description embeddings.
        one_hot: One unit vector a task instead; nothing can be held out then.
        held_out: Descriptions a task that aren't trained on, where it has twice as many.
        seed: Decides which, and every draw.
    """

    def __init__(self, oracles: Oracles, *, one_hot: bool, held_out: int, seed: int) -> None:
        n = len(oracles.tasks)
        self._seed = seed
        self.encoder, self.encoder_fingerprint = oracles.encoder, oracles.encoder_fingerprint
        self.unseen: Batch | None = None
        if one_hot:
            self._rows = [torch.eye(n)[i : i + 1] for i in range(n)]
            self.encoder, self.encoder_fingerprint = "one-hot", f"one-hot-{n}"
            return
        if not len(oracles.embeddings):
            raise ConfigError("the file holds no description embeddings; use --embeddings one-hot")
        rng = np.random.default_rng(seed)
        self._rows, kept = [], []
        for task in range(n):
            mine = np.flatnonzero(oracles.embedding_tasks.numpy() == task)
            mine = rng.permutation(mine)
            cut = held_out if len(mine) >= 2 * held_out else 0
            self._rows.append(oracles.embeddings[mine[cut:]].float())
            kept += [(oracles.embeddings[row].float(), task) for row in mine[:cut]]
        if kept:
            rows = torch.tensor([task for _, task in kept])
            self.unseen = Batch(torch.stack([row for row, _ in kept]), rows)

    @property
    def width(self) -> int:
        """D, the embeddings' width."""
        return self._rows[0].shape[1]

    def first(self) -> Batch:
        """Give each task's first training description."""
        return Batch(torch.cat([rows[:1] for rows in self._rows]), torch.arange(len(self._rows)))

    def draw(self, step: int, n_tasks: int) -> Batch:
        """Draw different tasks with one description each; depends on seed and step only."""
        rng = np.random.default_rng([self._seed, step])
        tasks = rng.permutation(len(self._rows))[:n_tasks]
        chosen = [self._rows[task][rng.integers(len(self._rows[task]))] for task in tasks]
        return Batch(torch.stack(chosen), torch.from_numpy(tasks))
