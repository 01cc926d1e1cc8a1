"""How far generated LoRAs are from target LoRAs."""

from collections.abc import Mapping
from math import nan
from typing import Literal

import torch
from torch import Tensor, nn

from t2l_router.hypernet import LoraPair
from training.delta_w import inner, squares
from training.oracle_file import Oracles

Space = Literal["z-score", "delta-w"]
_LEAST_STD = 1e-6


class Targets(nn.Module):
    """
    Target LoRAs of many tasks, held as buffers.

    Args:
        oracles: The targets.
        space: Where the loss is taken: ``z-score`` of the entries of A and B, or ``delta-w``.
    """

    def __init__(self, oracles: Oracles, *, space: Space) -> None:
        super().__init__()
        self._space = space
        self._names = [module.name for module in oracles.spec.modules]
        self._scaling = oracles.spec.scaling
        for name in self._names:
            for side, tensors in (("a", oracles.lora_A), ("b", oracles.lora_B)):
                # Kept as stored; batches are made float32.
                self.register_buffer(f"{name}_{side}", tensors[name])
                spread = tensors[name].float()
                self.register_buffer(f"{name}_{side}_mean", spread.mean(0))
                std = spread.std(0, correction=0).clamp_min(_LEAST_STD)
                self.register_buffer(f"{name}_{side}_std", std)
            norms = squares(self._pair(name)).sqrt()  # [N, L]
            self.register_buffer(f"{name}_norm", norms)

    def stats_a(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over tasks of a module's A, ``[L, R, d_in]``."""
        return self.get_buffer(f"{name}_a_mean"), self.get_buffer(f"{name}_a_std")

    def stats_b(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over tasks of a module's B, ``[L, d_out, R]``."""
        return self.get_buffer(f"{name}_b_mean"), self.get_buffer(f"{name}_b_std")

    def largest_norm(self) -> float:
        """The largest Frobenius norm of a layer's scaled delta-W."""
        largest = max(float(self.get_buffer(f"{name}_norm").max()) for name in self._names)
        return self._scaling * largest

    def forward(self, pairs: Mapping[str, LoraPair], rows: Tensor) -> Tensor:
        """
        Give the loss, a mean over tasks, layers, modules and entries.

        Args:
            pairs: Target module -> generated pairs of T tasks.
            rows: ``[T]`` int64, those tasks.
        """
        losses = [self._loss(name, pairs[name], rows) for name in self._names]
        return torch.stack(losses).mean()

    def _loss(self, name: str, pair: LoraPair, rows: Tensor) -> Tensor:
        target = self._pair(name, rows)
        if self._space == "z-score":
            a = (pair.lora_A - target.lora_A).abs() / self.stats_a(name)[1]
            b = (pair.lora_B - target.lora_B).abs() / self.stats_b(name)[1]
            return (a.mean() + b.mean()) / 2
        delta, wanted = pair.lora_B @ pair.lora_A, target.lora_B @ target.lora_A
        # 1 is what an adapter of zeros scores in every layer, large or small.
        sizes = wanted.abs().mean((0, 2, 3), keepdim=True).clamp_min(_LEAST_STD)
        return ((delta - wanted).abs() / sizes).mean()

    def errors(self, pairs: Mapping[str, LoraPair], rows: Tensor) -> dict[str, Tensor]:
        """
        Give each task's errors.

        Returns:
            ``z_score_l1``: mean distance of entries in standard deviations; ``delta_w``: Frobenius
            distance of delta-W over its norm, all layers and modules together; each ``[T]``.
        """
        l1 = torch.zeros(len(rows), device=rows.device)
        apart, size = torch.zeros_like(l1), torch.zeros_like(l1)
        for name in self._names:
            pair, target = pairs[name], self._pair(name, rows)
            for mine, theirs, std in (
                (pair.lora_A, target.lora_A, self.stats_a(name)[1]),
                (pair.lora_B, target.lora_B, self.stats_b(name)[1]),
            ):
                l1 += ((mine - theirs).abs() / std).flatten(1).mean(1) / (2 * len(self._names))
            cross = inner(pair, target).sum(-1)
            apart += squares(pair).sum(-1) + squares(target).sum(-1) - 2 * cross
            size += squares(target).sum(-1)
        # A target that was never trained is zero, and nothing is a share of it.
        relative = (apart.clamp_min(0) / size).sqrt().where(size > 0, nan)
        return {"z_score_l1": l1, "delta_w": relative}

    def _pair(self, name: str, rows: Tensor | None = None) -> LoraPair:
        a, b = self.get_buffer(f"{name}_a"), self.get_buffer(f"{name}_b")
        if rows is not None:
            a, b = a[rows], b[rows]
        return LoraPair(a.float(), b.float())
