"""The running rows as one batch: prompts are read in pieces, answers decode together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2l_router.engines import attention
from t2l_router.engines.forward import forward_of
from t2l_router.engines.graphs import DecodeGraphs
from t2l_router.engines.kv import KvBank, KvWindow
from t2l_router.engines.masks import Masks
from t2l_router.engines.slots import SlotBank

logger = logging.getLogger(__name__)

# Tokens of a prompt read in one step: alone, and while others wait for their next token.
READ_ALONE, READ_BESIDE = 512, 128
# Steps are captured before the first request for windows up to so many tokens.
_WARM_LENGTH, _WARM_STEP = 1_024, 256


@dataclass(eq=False, slots=True)
class Row:
    """
    One sequence in the batch.

    Args:
        slot: Its adapter's slot.
        ids: Prompt and answer so far.
        capacity: Most tokens it will have.
        n_read: Tokens from the first on whose keys and values are in the bank.
    """

    slot: int
    ids: list[int]
    capacity: int
    n_read: int = 0
    n_written: int = field(default=0)  # positions of the bank that hold anything of this row

    @property
    def is_ready(self) -> bool:
        """Whether only its last token is to be read, which gives the next one."""
        return self.n_read == len(self.ids) - 1


class Batch:
    """
    Runs forward passes over rows that come and go; it belongs to one thread.

    Ready rows lie first in the bank, without gaps, so that a decode step sees them as one slice.

    Args:
        model: In evaluation mode.
        slots: The adapters in it.
        kv: Holds the rows' keys and values.
        read_together: Prompts read in one forward pass. One is right on a CPU, where padding costs
            as much as text; a GPU is idle with a single short prompt.
        use_graphs: Capture decode steps as CUDA graphs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: SlotBank,
        kv: KvBank,
        *,
        read_together: int = 1,
        use_graphs: bool = False,
    ) -> None:
        attention.install(model)
        self._device = model.device
        self._forward = forward_of(model)
        self._slots = slots
        self.kv = kv
        self._read_together = read_together
        self.rows: list[Row] = []
        self._n_ready = 0
        self._masks = Masks(model)
        self._graphs = DecodeGraphs(self._graphed) if use_graphs else None

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture the steps of rows that are not long, so that no request waits for it."""
        if self._graphs is None:
            return
        self.kv.reserve_half()
        try:
            counts = {self._graphs.rows_for(n, self.kv.rows) for n in range(1, self.kv.rows + 1)}
            for n_rows in sorted(counts):
                for longest in range(_WARM_STEP, min(_WARM_LENGTH, self.kv.length) + 1, _WARM_STEP):
                    self._slots.seat([0] * n_rows, n_rows=self.kv.rows)
                    self._graphs.prepare(n_rows, **self._places(longest))
        except RuntimeError as error:
            self._give_up_graphs(error)

    @property
    def ready(self) -> Sequence[Row]:
        """Rows that `decode` gives logits for, in its order."""
        return self.rows[: self._n_ready]

    def has_room(self, capacity: int) -> bool:
        """Whether one more row fits into the budget beside the running ones."""
        longest = max([capacity, *(row.capacity for row in self.rows)])
        return self.kv.fits(len(self.rows) + 1, longest)

    @torch.inference_mode()
    def join(self, row: Row) -> int:
        """Add a row, whose keys and values are to follow, and return its place in the bank."""
        longest = max([row.capacity, *(other.capacity for other in self.rows)])
        place = len(self.rows)
        self.kv.reserve(place + 1, longest, live=place)
        self.rows.append(row)
        return place

    @torch.inference_mode()
    def settle(self) -> None:
        """Let rows decode whose prompt has been read."""
        for place in range(self._n_ready, len(self.rows)):
            if self.rows[place].is_ready:
                self._exchange(place, self._n_ready)
                self._n_ready += 1

    @torch.inference_mode()
    def leave(self, row: Row) -> None:
        """Take a row out; the last one of its kind takes its place."""
        place = self.rows.index(row)
        if place < self._n_ready:
            self._n_ready -= 1
            self._exchange(place, self._n_ready)
            place = self._n_ready
        last = len(self.rows) - 1
        self._exchange(place, last)
        # A graph's warm-up writes to the last position too.
        self.kv.wipe(last, row.n_written if self._graphs is None else self.kv.length)
        self.rows.pop()
        if not self.rows:
            # Graphs hold on to where the bank is.
            share = 4 if self._graphs is None else 2
            self.kv.release(above=self.kv.budget_bytes // share)

    @property
    def unread(self) -> Sequence[Row]:
        """Rows whose prompts `read` goes on with."""
        return self.rows[self._n_ready : self._n_ready + self._read_together]

    @torch.inference_mode()
    def read(self, group: Sequence[Row]) -> None:
        """Read a piece of the prompts of some rows, the first of `unread`."""
        if group:
            budget = (READ_BESIDE if self._n_ready else READ_ALONE) // len(group)
            longest = max(len(row.ids) - 1 - row.n_read for row in group)
            # What fills up a short piece must not be written behind the end of the bank.
            room = self.kv.length - max(row.n_read for row in group)
            self._read(group, self._n_ready, min(longest, max(budget, 1), room))
            self.settle()

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row] | None = None) -> Tensor:
        """
        Read the last token of ready rows.

        Args:
            rows: A part of `ready` without gaps; None is all of it.

        Returns:
            The logits of each one's next token, ``[rows, vocab_size]``.
        """
        if rows is None and self._graphs is not None:
            try:
                return self._replay(self._graphs)
            except RuntimeError as error:
                self._give_up_graphs(error)
        rows = self.ready if rows is None else rows
        first = self.rows.index(rows[0])
        return self._forward.decode(*self._seated(rows, first, 1))

    def advance(self, row: Row, token: int) -> None:
        """Append the token that was chosen from a ready row's logits."""
        row.n_read += 1
        row.ids.append(token)

    def _replay(self, graphs: DecodeGraphs) -> Tensor:
        rows = self.ready
        n_rows = graphs.rows_for(len(rows), self.kv.rows)
        fill = [0] * (n_rows - len(rows))
        self._slots.seat([*(row.slot for row in rows), *fill], n_rows=self.kv.rows)
        for row in rows:
            row.n_written = max(row.n_written, row.n_read + 1)
        spare = self.kv.length - 1
        return graphs.run(
            torch.tensor([*(row.ids[row.n_read] for row in rows), *fill]),
            torch.tensor([*(row.n_read for row in rows), *(spare for _ in fill)]),
            **self._places(max(row.n_read for row in rows) + 1),
        )[: len(rows)]

    def _places(self, longest: int) -> dict[str, Any]:
        places = (self.kv.generation, self._slots.generation)
        return {"longest": longest, "max_length": self.kv.length, "places": places}

    def _give_up_graphs(self, error: RuntimeError) -> None:
        # A model that can't be captured would break in every step.
        logger.warning("no CUDA graphs from now on: a step broke", exc_info=error)
        self._graphs = None

    def _graphed(self, ids: Tensor, positions: Tensor, length: int) -> Tensor:
        self._slots.show(len(ids))
        window = self.kv.window(0, positions, length, by_index=True)
        return self._forward.decode(ids, positions, self._masks.of(positions, length), window)

    def _read(self, group: Sequence[Row], first: int, n_tokens: int) -> None:
        self._forward.read(*self._seated(group, first, n_tokens))
        for row in group:
            row.n_read = min(row.n_read + n_tokens, len(row.ids) - 1)

    def _seated(
        self, rows: Sequence[Row], first: int, n_tokens: int
    ) -> tuple[Tensor, Tensor, Any, KvWindow]:
        """Make the model ready for a pass, and give the pass's arguments."""
        starts = [row.n_read for row in rows]
        pieces = [
            row.ids[start : start + n_tokens] for row, start in zip(rows, starts, strict=True)
        ]
        # A piece that is too short is filled up: what it writes lies behind its row's last token.
        ids = torch.tensor([[*piece, *[0] * (n_tokens - len(piece))] for piece in pieces])
        positions = torch.tensor(starts)[:, None] + torch.arange(n_tokens)
        length = max(starts) + n_tokens
        self._slots.seat([row.slot for row in rows], first=first)
        for row, start in zip(rows, starts, strict=True):
            row.n_written = max(row.n_written, start + n_tokens)
        positions = positions.to(self._device)
        window = self.kv.window(first, positions, length)
        return ids.to(self._device), positions, self._masks.of(positions, length), window

    def _exchange(self, one: int, other: int) -> None:
        if one == other:
            return
        kv, rows = self.kv, self.rows
        saved = kv.save(one, rows[one].n_written)
        kv.wipe(one, rows[one].n_written)
        kv.move(other, one, rows[other].n_written)
        kv.wipe(other, rows[other].n_written)
        kv.load(other, saved, rows[one].n_written)
        rows[one], rows[other] = rows[other], rows[one]
