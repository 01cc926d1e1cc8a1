"""Many adapters resident in one base model, each batch row with its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import PreTrainedModel

from t2l_router.errors import InvalidAdapter
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.threads import one_thread

_STALE = -1  # no slot has this number


class AdaptedLinear(nn.Module):
    """
    A frozen linear module plus one LoRA pair per batch row.

    Semantics:
        y[i] = base(x[i]) + lora_B[i] @ (lora_A[i] @ dropout(x[i])). Scaling is folded into lora_B.
        Without pairs, y = base(x).

    Args:
        base: The module it replaces; its weights stay as they are.
        dropout: Probability of dropping an input of lora_A, in training mode only.
    """

    def __init__(self, base: nn.Linear, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.dropout = dropout
        self.lora_A: Tensor | None = None  # [batch, R, d_in]
        self.lora_B: Tensor | None = None  # [batch, d_out, R]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, len, d_in]`` to ``[batch, len, d_out]``."""
        y: Tensor = self.base(x)
        a, b = self.lora_A, self.lora_B
        if a is None or b is None:
            return y
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        if a.dtype == y.dtype:
            return torch.baddbmm(y, torch.bmm(x, a.mT), b.mT)
        return y + torch.bmm(torch.bmm(x.to(a.dtype), a.mT), b.mT).to(y.dtype)


def adapt(model: nn.Module, spec: LoraSpec, *, dropout: float = 0.0) -> dict[str, AdaptedLinear]:
    """
    Replace every target module of *model* by an `AdaptedLinear`, in place.

    Returns:
        The new modules by their path in the model.
    """
    adapted = {}
    for module in spec.modules:
        for layer in range(spec.n_layers):
            path = module.path.format(layer=layer)
            parent_path, _, name = path.rpartition(".")
            parent = model.get_submodule(parent_path)
            linear = getattr(parent, name)
            assert isinstance(linear, nn.Linear), f"{path} is {type(linear).__name__}"
            adapted[path] = AdaptedLinear(linear, dropout=dropout)
            setattr(parent, name, adapted[path])
    return adapted


class SlotBank:
    """
    A fixed number of adapters on the model's device; slot 0 is the base model.

    Inserting is an on-device copy: nothing is allocated, no disk is touched. The bank and the
    model belong to one thread.

    Semantics:
        Batch rows have pairs of their own, copied from the slots when a row's slot changes, so that
        a forward gathers nothing: the step of a batch that stays the same costs two small matrix
        products a module.

    Args:
        model: A base model in evaluation mode; its target modules are replaced.
        spec: The largest adapters that fit: the rank is the maximum rank.
        n_slots: Adapters that can be resident at once, at least 1.
    """

    def __init__(self, model: PreTrainedModel, spec: LoraSpec, n_slots: int) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots is {n_slots}, must be at least 1")
        self.spec = spec
        self.n_slots = n_slots
        adapted = adapt(model, spec)
        self._modules = {
            module.name: [adapted[module.path.format(layer=i)] for i in range(spec.n_layers)]
            for module in spec.modules
        }
        # On a CPU small batched products are several times faster in float32 than in bfloat16.
        on_cpu = model.device.type == "cpu"
        dtype = torch.float32 if on_cpu else model.dtype
        # One tensor over all layers, so that an insert is one copy.
        self._like = torch.empty(0, dtype=dtype, device=model.device)
        self._slots = self._new_pairs(n_slots + 1)
        self._rows = self._new_pairs(0)
        self._seated: list[int] = []  # the slot whose pair each row holds
        self._shown: tuple[int, int] | None = None  # the rows that the modules see
        self.generation = 0  # changes when the rows' pairs move in memory

    @torch.no_grad()
    def insert(self, slot: int, weights: LoraWeights) -> None:
        """
        Copy an adapter into a slot; what the slot held before is gone.

        Args:
            slot: From 1 to ``n_slots``.
            weights: Any rank up to the bank's; target modules it lacks stay unadapted.

        Raises:
            InvalidAdapter: The adapter belongs to another base model or doesn't fit.
        """
        spec = weights.spec
        fits = spec.rank <= self.spec.rank and set(self.spec.modules).issuperset(spec.modules)
        if spec.base_fingerprint != self.spec.base_fingerprint or not fits:
            raise InvalidAdapter(f"adapter for {_summary(spec)} doesn't fit {_summary(self.spec)}")
        with one_thread():
            self.clear(slot)
            for module in spec.modules:
                a, b = self._slots[module.name]
                a[:, slot, : spec.rank].copy_(weights.lora_A[module.name])
                # In the slot's numbers: in the file's, often bfloat16, it would be rounded.
                lora_b = weights.lora_B[module.name].to(b.dtype)
                b[:, slot, :, : spec.rank].copy_(lora_b * spec.scaling)

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        """Make a slot act as the base model."""
        assert 1 <= slot <= self.n_slots, f"slot {slot} of 1..{self.n_slots}"
        for pair in self._slots.values():
            for tensor in pair:
                tensor[:, slot].zero_()
        self._seated = [_STALE if seated == slot else seated for seated in self._seated]

    @torch.no_grad()
    def seat(self, slots: Sequence[int], *, first: int = 0, n_rows: int = 0) -> None:
        """
        Have the next forwards use these slots.

        Args:
            slots: The slot of each batch row; 0 is the base model.
            first: Number of the first row. Rows keep their pairs from call to call, so that only
                those whose slot has changed are copied.
            n_rows: Have room for so many rows; growing later moves them in memory.
        """
        if not any(slots) and not n_rows:
            self._show(None)
            return
        last = first + len(slots)
        if max(last, n_rows) > len(self._seated):
            self._grow(max(last, n_rows))
        for row, slot in enumerate(slots, first):
            if self._seated[row] != slot:
                self._copy(slot, row)
        self._show((first, last))

    def show(self, n_rows: int) -> None:
        """Have the next forwards use the first *n_rows* rows as they were seated."""
        self._show((0, n_rows))

    @contextmanager
    def rows(self, slots: Sequence[int]) -> Iterator[None]:
        """Forwards inside use these slots, see `seat`; outside the model is the base model."""
        self.seat(slots)
        try:
            yield
        finally:
            self._show(None)

    def _copy(self, slot: int, row: int) -> None:
        with one_thread():
            for name, pair in self._slots.items():
                for own, shared in zip(self._rows[name], pair, strict=True):
                    own[:, row].copy_(shared[:, slot])
        self._seated[row] = slot

    def _show(self, rows: tuple[int, int] | None) -> None:
        if rows == self._shown:
            return
        self._shown = rows
        for name, modules in self._modules.items():
            a, b = self._rows[name]
            for layer, adapted in enumerate(modules):
                adapted.lora_A = a[layer, slice(*rows)] if rows else None
                adapted.lora_B = b[layer, slice(*rows)] if rows else None

    def _grow(self, n_rows: int) -> None:
        self._show(None)
        self._rows = self._new_pairs(n_rows)
        self._seated = [_STALE] * n_rows
        self.generation += 1

    @torch.inference_mode(mode=False)  # else nothing outside that mode could write to them
    def _new_pairs(self, n: int) -> dict[str, tuple[Tensor, Tensor]]:
        spec, like = self.spec, self._like
        pairs = {}
        for m in spec.modules:
            a = like.new_zeros(spec.n_layers, n, spec.rank, m.d_in, requires_grad=False)
            # A rank's outputs lie together: both products read whole vectors.
            b = like.new_zeros(spec.n_layers, n, spec.rank, m.d_out, requires_grad=False).mT
            pairs[m.name] = (a, b)
        return pairs


def _summary(spec: LoraSpec) -> str:
    names = ",".join(module.name for module in spec.modules)
    return f"{spec.base_model}@{spec.base_fingerprint[:12]} rank {spec.rank} on {names}"
