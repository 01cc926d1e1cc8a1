"""
A hypernetwork trained on a description, on a few examples of the task, or on both.

Either part is left out of some rows, so that the one network serves whoever has only the other.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from training.data import Batch
from training.example_rows import ExampleRows
from training.trainer import Trainer

_SAMPLE = 4096  # inputs whose adapters are measured


class ConditionedTrainer(Trainer):
    """
    A `Trainer` whose hypernetwork reads features of examples beside the description's embedding.

    Args:
        args: As of `Trainer`.
        examples: Rows of at least the pack's tasks.
    """

    def __init__(self, *args: Any, examples: ExampleRows) -> None:
        super().__init__(*args)
        self.standard = examples.standard
        rows = examples.of(self.pack.facts["tasks"])
        self._rows = torch.from_numpy(rows).to(self.device)
        self._tasks = torch.from_numpy(self.pack.embedding_tasks).long().to(self.device)

    def _embed(self, batch: Batch) -> Tensor:
        """Give ``[T, D + F]``: the description's unit row, and one of the task's draws."""
        tasks = self._tasks[list(batch.descriptions)]
        return torch.cat([batch.embeddings, self._drawn(tasks)], 1)

    def _drawn(self, tasks: Tensor) -> Tensor:
        draws = torch.randint(self._rows.shape[1], (len(tasks),), device=self.device)
        return self._rows[tasks, draws].float()

    def _noised(self, embeddings: Tensor) -> Tensor:
        width = self.pack.embeddings.shape[1]
        description, examples = embeddings[:, :width], embeddings[:, width:]
        noise = self.recipe.noise
        description = F.normalize(description + noise * torch.randn_like(description), dim=-1)
        # As long a noise vector as the description's, however wide the features are.
        noise *= (width / examples.shape[1]) ** 0.5
        examples = F.normalize(examples + noise * torch.randn_like(examples), dim=-1)
        chance = torch.rand(len(embeddings), 1, device=self.device)
        alone = self.recipe.alone
        description = description * (chance >= alone)
        examples = examples * (chance < 1 - alone)
        return F.normalize(torch.cat([description, examples], 1), dim=-1)

    def embeddings(self) -> Tensor:
        """Some of the inputs that training has shown, of all three kinds."""
        step = -(-len(self._tasks) // _SAMPLE)
        description = torch.from_numpy(self.pack.embeddings[::step]).to(self.device)
        examples = self._drawn(self._tasks[::step])
        parts = [
            torch.cat([description, 0 * examples], 1),
            torch.cat([0 * description, examples], 1),
            torch.cat([description, examples], 1),
        ]
        return F.normalize(torch.cat(parts), dim=-1)
