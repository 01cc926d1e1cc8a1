"""Many adapters resident in one base model, each batch row with its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router.errors import InvalidAdapter
from t2l_router.lora import LoraSpec, LoraWeights


class AdaptedLinear(nn.Module):
    """
    A frozen linear module plus one LoRA pair per batch row.

    Semantics:
        y[i] = base(x[i]) + lora_B[k] @ (lora_A[k] @ dropout(x[i])), with k = rows[i], or k = i
        where *rows* is not set. Scaling is folded into lora_B. Without pairs, y = base(x).

    Args:
        base: The module it replaces; its weights stay as they are.
        dropout: Probability of dropping an input of lora_A, in training mode only.
    """

    def __init__(self, base: nn.Linear, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.dropout = dropout
        self.lora_A: Tensor | None = None  # [K, R, d_in]
        self.lora_B: Tensor | None = None  # [K, d_out, R]
        self.rows: Tensor | None = None  # [batch] int64

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, len, d_in]`` to ``[batch, len, d_out]``."""
        y: Tensor = self.base(x)
        a, b = self.lora_A, self.lora_B
        if a is None or b is None:
            return y
        if self.rows is not None:
            a, b = a[self.rows], b[self.rows]  # [batch, R, d_in], [batch, d_out, R]
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        return torch.baddbmm(y, torch.bmm(x, a.mT), b.mT)


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
    model belong to one thread. Outside `rows` the model is the base model.

    Args:
        model: A base model in evaluation mode; its target modules are replaced.
        spec: The largest adapters that fit: the rank is the maximum rank.
        n_slots: Adapters that can be resident at once, at least 1.
    """

    def __init__(self, model: nn.Module, spec: LoraSpec, n_slots: int) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots is {n_slots}, must be at least 1")
        self.spec = spec
        self.n_slots = n_slots
        self._modules = adapt(model, spec)
        # The model's dtype and device; one tensor over all layers, so that an insert is one copy.
        like = next(iter(self._modules.values())).base.weight
        shape = (spec.n_layers, n_slots + 1)
        self._bank_a = {
            m.name: like.new_zeros(*shape, spec.rank, m.d_in, requires_grad=False)
            for m in spec.modules
        }
        self._bank_b = {
            m.name: like.new_zeros(*shape, m.d_out, spec.rank, requires_grad=False)
            for m in spec.modules
        }

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
        self.clear(slot)
        for module in spec.modules:
            name = module.name
            self._bank_a[name][:, slot, : spec.rank].copy_(weights.lora_A[name])
            self._bank_b[name][:, slot, :, : spec.rank].copy_(weights.lora_B[name] * spec.scaling)

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        """Make a slot act as the base model."""
        assert 1 <= slot <= self.n_slots, f"slot {slot} of 1..{self.n_slots}"
        for bank in (*self._bank_a.values(), *self._bank_b.values()):
            bank[:, slot].zero_()

    @contextmanager
    def rows(self, slots: Sequence[int]) -> Iterator[None]:
        """
        Forwards inside use these slots.

        Args:
            slots: The slot of each batch row; 0 is the base model.
        """
        device = next(iter(self._bank_a.values())).device
        index = torch.tensor(slots, dtype=torch.long, device=device)
        for module in self.spec.modules:
            for layer in range(self.spec.n_layers):
                adapted = self._modules[module.path.format(layer=layer)]
                adapted.lora_A = self._bank_a[module.name][layer]
                adapted.lora_B = self._bank_b[module.name][layer]
                adapted.rows = index
        try:
            yield
        finally:
            for adapted in self._modules.values():
                adapted.lora_A = adapted.lora_B = adapted.rows = None


def _summary(spec: LoraSpec) -> str:
    names = ",".join(module.name for module in spec.modules)
    return f"{spec.base_model}@{spec.base_fingerprint[:12]} rank {spec.rank} on {names}"
