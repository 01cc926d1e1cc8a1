"""Trains a hypernetwork that reads tokens: the frozen base model reads, then learns to answer."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from torch.utils.data import DataLoader, Dataset

from t2l_router.context import FILLER, Reading, states_of
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.reader import Reader
from training.context_sampler import ContextBatch, ContextSampler, Shares
from training.data import Batch
from training.trainer import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STD_LEAST = 1e-4
_MEASURED = 4  # batches


class ContextTrainer(Trainer):
    """
    A `Trainer` of a `ContextHypernet`.

    Args:
        args: As of `Trainer`.
        model: The base model once more, without adapters: it reads.
        tokenizer: The base model's.
        shares: How rows are varied.
        workers: Processes that draw batches.
    """

    def __init__(
        self,
        *args: Any,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        shares: Shares,
        workers: int = 0,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._shares, self._workers = shares, workers
        super().__init__(*args)
        self._standardise()

    def _new_sampler(self) -> ContextSampler:
        recipe = self.recipe
        return ContextSampler(
            self.pack,
            self._tokenizer,
            shares=self._shares,
            tasks_per_step=recipe.tasks_per_step,
            row_tokens=recipe.row_tokens,
            seed=recipe.seed,
            plain=recipe.plain,
            terse=recipe.terse,
        )

    def _batches(self, steps: range) -> Iterable[Batch]:
        if not self._workers:
            return super()._batches(steps)
        assert isinstance(self._sampler, ContextSampler)
        return DataLoader(
            _Steps(self._sampler, steps),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=4,
        )

    @property
    def _reader(self) -> Reader:
        assert isinstance(self.source, ContextHypernet)
        return self.source.reader

    def _embed(self, batch: Batch) -> Any:
        assert isinstance(batch, ContextBatch)
        ids, positions = batch.context_ids, batch.context_positions
        states = states_of(self._model, ids, positions, self._reader.config.depths)
        return Reading(batch.embeddings, states, batch.context_kinds)

    def _noised(self, reading: Any) -> Any:
        rows = reading.embeddings
        there = (rows != 0).any(1, keepdim=True)
        noised = F.normalize(rows + self.recipe.noise * torch.randn_like(rows), dim=-1) * there
        hidden = torch.rand(reading.kinds.shape, device=self.device) < self._shares.hidden
        return Reading(noised, reading.states, reading.kinds.masked_fill(hidden, FILLER))

    @torch.no_grad()
    def _standardise(self) -> None:
        """Measure mean and spread of the hidden states over the first batches."""
        rows = []
        for step in range(_MEASURED):
            reading = self._embed(self._sampler.batch(step).to(self.device))
            rows.append(reading.states[reading.kinds != FILLER].float())
        states = torch.cat(rows)
        self._reader.mean.copy_(states.mean(0))
        self._reader.std.copy_(states.std(0) + _STD_LEAST)

    def embeddings(self) -> Any:
        """Some of what training has shown."""
        readings = [
            self._embed(self._sampler.batch(step).to(self.device)) for step in range(_MEASURED)
        ]
        return Reading(
            *(
                torch.cat([getattr(r, f) for r in readings])
                for f in ("embeddings", "states", "kinds")
            )
        )


class _Steps(Dataset[Batch]):
    """The batches of some steps."""

    def __init__(self, sampler: ContextSampler, steps: range) -> None:
        self._sampler, self._steps = sampler, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, i: int) -> ContextBatch:
        return self._sampler.batch(self._steps[i])
