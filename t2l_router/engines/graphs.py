"""CUDA graphs of decode steps: a step of a small model is else spent launching kernels."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_LENGTH_STEP = 256
_FINE_LENGTH = 1_024  # longer windows double, so that a long answer needs few captures
_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    ids: Tensor
    positions: Tensor
    logits: Tensor


class DecodeGraphs:
    """
    Captured decode steps, one per shape.

    Other threads may use the device meanwhile: the capture watches its own thread only, its stream
    waits for no other, and what it allocates comes from a pool of its own.

    Args:
        forward: ``(ids [rows, 1], positions [rows, 1], length) -> logits [rows, vocab_size]``, with
            all other tensors at fixed places. It may overwrite the bank's last position, as the
            warm-up does: no row attends to it before it has written there.
    """

    def __init__(self, forward: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        self._forward = forward
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._places: Any = None
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    @staticmethod
    def rows_for(n: int, max_rows: int) -> int:
        """Rows of the step that runs *n* rows: the next power of two, if the bank has as many."""
        return min(1 << (n - 1).bit_length(), max_rows)

    def run(
        self, ids: Tensor, positions: Tensor, *, longest: int, max_length: int, places: Any
    ) -> Tensor:
        """
        Run one step.

        Args:
            ids: ``[rows]`` int64 on the CPU.
            positions: ``[rows]`` int64 on the CPU.
            longest: Tokens that the longest row attends to.
            max_length: Length of the bank.
            places: Changes when any tensor that the forward uses has moved.

        Returns:
            ``[rows, vocab_size]``, until the next step.
        """
        graph = self.prepare(len(ids), longest=longest, max_length=max_length, places=places)
        graph.ids[:, 0].copy_(ids, non_blocking=True)
        graph.positions[:, 0].copy_(positions, non_blocking=True)
        graph.graph.replay()
        return graph.logits

    def prepare(self, n_rows: int, *, longest: int, max_length: int, places: Any) -> _Graph:
        """Have the step captured that `run` needs for so many rows."""
        if places != self._places:
            self._graphs.clear()
            # The allocator refuses a pool whose graphs are all gone.
            self._pool = None
            self._places = places
        length = min(_window(longest), max_length)
        graph = self._graphs.get((n_rows, length))
        if graph is None:
            graph = self._graphs[n_rows, length] = self._capture(n_rows, length, max_length - 1)
        return graph

    def _capture(self, n_rows: int, length: int, spare: int) -> _Graph:
        ids = torch.zeros(n_rows, 1, dtype=torch.long, device="cuda")
        positions = torch.full_like(ids, spare)
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._forward(ids, positions, length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Else an allocation of any other thread would break the capture.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=mode):
            logits = self._forward(ids, positions, length)
        self._pool = self._pool or graph.pool()
        logger.debug("captured a decode step of %d rows and %d tokens", n_rows, length)
        return _Graph(graph, ids, positions, logits)


def _window(longest: int) -> int:
    """Tokens that a captured step attends to, if it needs so many."""
    if longest > _FINE_LENGTH:
        return 1 << (longest - 1).bit_length()
    return -(-longest // _LENGTH_STEP) * _LENGTH_STEP
