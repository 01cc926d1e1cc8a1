"""Keys and values of all running rows, in one bank of bounded size."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from t2l_router.errors import EngineFailed

_LENGTH_STEP = 256


@dataclass(frozen=True, slots=True)
class SavedKv:
    """
    Keys and values of one row, taken out of the bank.

    Args:
        layers: Keys and values per layer, ``[heads, length, d]`` each.
        nbytes: Memory they hold.
    """

    layers: list[tuple[Tensor, Tensor]]
    nbytes: int


class KvBank:
    """
    Room for the keys and values of a batch: per layer ``[rows, heads, length, d]``.

    A row's tokens lie from position 0 on, so rows need no padding on the left and positions are
    what they are alone. What lies behind a row's last token is finite and must be masked.

    Args:
        model: Its config and one forward pass say what a token needs.
        max_rows: Most rows it will hold.
        max_length: Most tokens in a row.
        budget_bytes: Most memory, together with what the caller keeps in `SavedKv`.
    """

    def __init__(
        self, model: PreTrainedModel, *, max_rows: int, max_length: int, budget_bytes: int
    ) -> None:
        self._heads = _heads_of(model)
        self._like = torch.empty(0, dtype=model.dtype, device=model.device)
        numbers = sum(heads * (d_k + d_v) for heads, d_k, d_v in self._heads)
        self.bytes_per_token: int = numbers * self._like.element_size()
        self.max_rows = max_rows
        self.max_length = max_length
        self.budget_bytes = budget_bytes
        self.rows = self.length = 0
        self.generation = 0  # changes when the bank moves in memory
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the bank as it is."""
        return self.rows * self.length * self.bytes_per_token

    def fits(self, rows: int, length: int) -> bool:
        """Whether the budget can hold so many rows of that length."""
        return rows * length * self.bytes_per_token <= self.budget_bytes

    def reserve(self, rows: int, length: int, *, live: int) -> None:
        """
        Make room.

        Args:
            rows: Rows needed.
            length: Tokens that the longest row will have.
            live: Rows, from the first on, whose contents stay.
        """
        if rows <= self.rows and length <= self.length:
            return
        rows, length = self._rounded(rows, length)
        kept = min(length, self.length)
        layers = []  # a list of its own: if memory runs out, the bank is as it was
        for i, (heads, d_k, d_v) in enumerate(self._heads):
            # Zeros, because a masked NaN is still a NaN after it was multiplied by zero.
            keys = self._like.new_zeros(rows, heads, length, d_k)
            values = self._like.new_zeros(rows, heads, length, d_v)
            if live:
                keys[:live, :, :kept] = self._layers[i][0][:live, :, :kept]
                values[:live, :, :kept] = self._layers[i][1][:live, :, :kept]
            layers.append((keys, values))
        self._layers, self.rows, self.length = layers, rows, length
        self.generation += 1

    def release(self, *, above: int) -> None:
        """Give the memory back, if it is more than so many bytes; no row is live."""
        if self.nbytes > above:
            self._layers = []
            self.rows = self.length = 0

    def reserve_half(self) -> None:
        """Make room for the most rows at once, as long as half of the budget allows."""
        length = _LENGTH_STEP
        while 2 * length <= self.max_length and (
            self.max_rows * 4 * length * self.bytes_per_token <= self.budget_bytes
        ):
            length *= 2
        if self.fits(self.max_rows, length):
            self.reserve(self.max_rows, length, live=0)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first *length* tokens of one row to another."""
        for keys, values in self._layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def wipe(self, row: int, length: int) -> None:
        """Zero a row: the next one there must not meet its numbers, which may not be finite."""
        for keys, values in self._layers:
            keys[row, :, :length].zero_()
            values[row, :, :length].zero_()

    def save(self, row: int, length: int) -> SavedKv:
        """Copy a row out."""
        layers = [(k[row, :, :length].clone(), v[row, :, :length].clone()) for k, v in self._layers]
        return SavedKv(layers, length * self.bytes_per_token)

    def load(self, row: int, saved: SavedKv, length: int) -> None:
        """Copy the first *length* tokens of a saved row in."""
        for (keys, values), (saved_keys, saved_values) in zip(
            self._layers, saved.layers, strict=True
        ):
            keys[row, :, :length] = saved_keys[:, :length]
            values[row, :, :length] = saved_values[:, :length]

    def window(
        self, first: int, positions: Tensor, length: int, *, by_index: bool = False
    ) -> "KvWindow":
        """
        The cache of one forward pass.

        Args:
            first: The bank's row of the batch's first row.
            positions: Where the new tokens go, ``[batch, new]`` int64.
            length: Tokens to attend to at most, the new ones included.
            by_index: Read the positions off the tensor, as a CUDA graph must.
        """
        return KvWindow(self._layers, first, positions, length, by_index=by_index)

    def _rounded(self, rows: int, length: int) -> tuple[int, int]:
        """Some room to grow, where the budget allows it: growing copies what is live."""
        generous = min(2 ** (rows - 1).bit_length(), self.max_rows)
        steps = -(-length // _LENGTH_STEP)
        roomy = min(_LENGTH_STEP * 2 ** (steps - 1).bit_length(), self.max_length)
        for choice in ((generous, roomy), (rows, roomy), (generous, length)):
            if self.fits(*choice):
                return choice
        return rows, length


class KvWindow(Cache):
    """What a model sees of the bank in one forward pass, as transformers' cache."""

    def __init__(
        self,
        layers: list[tuple[Tensor, Tensor]],
        first: int,
        positions: Tensor,
        length: int,
        *,
        by_index: bool,
    ) -> None:
        super().__init__(layers=[])
        n_rows = positions.shape[0]
        self.bank, self.first = layers, first
        self._rows = slice(first, first + n_rows)
        self._length = length
        # A single row takes a slice, several take an index each.
        self._at: Any
        if n_rows == 1 and not by_index:
            start = length - positions.shape[1]
            self._at = (first, slice(None), slice(start, length))
        else:
            rows = torch.arange(first, first + n_rows, device=positions.device)
            self._at = (rows[:, None], slice(None), positions)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write ``[batch, heads, new, d]`` and return ``[batch, heads, length, d]``."""
        keys, values = self.bank[layer_idx]
        if isinstance(self._at[0], int):
            keys[self._at], values[self._at] = key_states[0], value_states[0]
        else:  # the indexed axes come first: [batch, new, heads, d]
            keys[self._at] = key_states.transpose(1, 2)
            values[self._at] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Tokens before the new ones; positions are given, so nothing depends on it."""
        return 0

    def __len__(self) -> int:
        return len(self.bank)


@torch.inference_mode()
def _heads_of(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """Heads and widths of keys and values per layer, as one forward pass shows them."""
    cache: Any = DynamicCache()
    decoder: Any = model.get_decoder()
    decoder(
        input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device),
        past_key_values=cache,
        use_cache=True,
    )
    shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            raise EngineFailed(
                f"{type(model).__name__} keeps more than keys and values; the local engine serves "
                "models with attention in every layer"
            )
        shapes.append((keys.shape[1], keys.shape[-1], values.shape[-1]))
    return shapes
