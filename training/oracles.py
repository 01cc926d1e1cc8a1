"""
Oracle LoRAs: one adapter a task, all tasks trained side by side on one device.

The trainer is the hypernetwork's; only the source of LoRA pairs differs: a table with one row a
task, picked by one-hot task embeddings. Every adapter trains as if it were alone: rows without
examples in a step keep still, and clipping, moments and bias correction are each row's own.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from t2l_router.hypernet import LoraPair
from t2l_router.lora import LoraSpec
from training.data import Batch, Pack
from training.oracle_file import Oracles
from training.recipe import Recipe
from training.trainer import Trainer


class TaskAdapters(nn.Module):
    """
    One adapter a task.

    All start from the same A ~ U(+-1/sqrt(d_in)) and B = 0: independent starts would differ by
    arbitrary rotations of the rank axis, which nothing could reconstruct.

    Args:
        spec: Every adapter's shapes.
        n_tasks: Rows of the table.
    """

    def __init__(self, spec: LoraSpec, n_tasks: int) -> None:
        super().__init__()
        self.spec = spec
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        for module in spec.modules:
            bound = 1 / math.sqrt(module.d_in)
            a = torch.empty(spec.n_layers, spec.rank, module.d_in).uniform_(-bound, bound)
            self.lora_A[module.name] = nn.Parameter(a.repeat(n_tasks, 1, 1, 1))
            self.lora_B[module.name] = nn.Parameter(
                torch.zeros(n_tasks, spec.n_layers, module.d_out, spec.rank)
            )

    def forward(self, task: Tensor) -> dict[str, LoraPair]:
        """Give the pairs of the tasks that ``[B, n_tasks]`` one-hot rows, noisy or not, name."""
        rows = task.argmax(dim=-1)
        return {
            name: LoraPair(self.lora_A[name][rows], self.lora_B[name][rows]) for name in self.lora_A
        }

    def oracles(self, pack: Pack) -> Oracles:
        """
        The adapters as they are stored: bf16, on the CPU.

        Args:
            pack: The pack as it was before `one_hot`, with the tasks' descriptions.
        """
        sides = (self.lora_A, self.lora_B)
        a, b = ({name: t.detach().bfloat16().cpu() for name, t in s.items()} for s in sides)
        embeddings = torch.from_numpy(pack.embeddings)
        owners = torch.from_numpy(pack.embedding_tasks.astype(np.int64))
        facts = pack.facts
        encoder = (facts["encoder"], facts["encoder_fingerprint"])
        return Oracles(self.spec, facts["tasks"], a, b, embeddings, owners, *encoder)


class RowAdamW(torch.optim.Optimizer):
    """
    AdamW in which each row of the parameters' first axis is a model of its own.

    Args:
        params: All with the same first axis, the tasks.
        lr: Learning rate.
        weight_decay: Decoupled, applied to the rows of a step only.
        clip: Largest gradient norm of a row, over all parameters.
    """

    def __init__(
        self, params: list[nn.Parameter], *, lr: float, weight_decay: float, clip: float
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "clip": clip})
        for p in params:
            self.state[p] = {
                "step": torch.zeros(len(p), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    @torch.no_grad()
    def step_rows(self, rows: Tensor, shares: Tensor) -> None:
        """
        Update some rows.

        Args:
            rows: ``[K]`` int64, all different.
            shares: ``[K]`` each row's share of the loss, so that its gradient can be made that of
                the row's own loss.
        """
        (group,) = self.param_groups
        params = [p for p in group["params"] if p.grad is not None]
        grads = [p.grad[rows] / _over(shares, p) for p in params]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
        factors = (group["clip"] / norms.clamp_min(1e-12)).clamp_max(1)
        for p, grad in zip(params, grads, strict=True):
            self._update(p, rows, grad * _over(factors, p), group["lr"], group["weight_decay"])

    def _update(
        self, p: nn.Parameter, rows: Tensor, grad: Tensor, lr: float, weight_decay: float
    ) -> None:
        beta1, beta2, eps = 0.9, 0.999, 1e-8  # AdamW's defaults
        state = self.state[p]
        step = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (square / _over(1 - beta2**step, p)).sqrt_().add_(eps)
        move = mean / _over(1 - beta1**step, p) / scale
        p[rows] = p[rows] * (1 - lr * weight_decay) - lr * move
        state["step"][rows] = step
        state["exp_avg"][rows] = mean
        state["exp_avg_sq"][rows] = square


def _over(values: Tensor, p: Tensor) -> Tensor:
    """Shape one value a row so that it broadcasts over the rows of a parameter."""
    return values.view(-1, *[1] * (p.dim() - 1))


class OracleTrainer(Trainer):
    """A `Trainer` of `TaskAdapters` on a one-hot pack."""

    def _new_optimiser(self, recipe: Recipe) -> torch.optim.Optimizer:
        return RowAdamW(
            list(self.source.parameters()),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            clip=recipe.clip,
        )

    def _update(self, batch: Batch) -> None:
        assert isinstance(self._optimiser, RowAdamW)
        rows, counts = batch.embeddings.argmax(dim=-1).unique(return_counts=True)
        self._optimiser.step_rows(rows, counts / len(batch.embeddings))
