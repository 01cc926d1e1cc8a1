"""
The hypernetwork: task embeddings in, LoRA pairs for every layer and module out, in one forward.

Source: Charakorn et al., Text-to-LoRA: Instant Transformer Adaption, ICML 2025, section 3 and
appendix B. Ours differs in that every variant starts as a no-op (the paper's code does so for L
only), that shapes and module order are part of the checkpoint, and that M and S also fit modules
with more outputs than inputs.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from t2l_router.lora import LoraSpec, ModuleShape
from t2l_router.reader import ReaderConfig

Variant = Literal["L", "M", "S"]
Output = Literal["offset", "zscore"]


@dataclass(frozen=True, slots=True)
class HypernetConfig:
    """
    Everything that fixes a hypernetwork's shape.

    Args:
        lora: The adapters it writes.
        embedding_dim: D, the width of the task encoder's embeddings.
        encoder: The task encoder's public name.
        encoder_fingerprint: The task encoder's fingerprint.
        variant: L (one output per pair), M (A and B apart) or S (one rank row at a time).
        latent_size: Width of task, layer and module features together; a multiple of 4.
        head_in: Width of the head's input.
        dropout: Dropout in the mixer and the MLP blocks, training only.
        output: What the head's output is added to: ``offset``, a learned mean adapter (training
            through the base model), or ``zscore``, the mean and spread of target LoRAs
            (reconstruction).
        max_delta_norm: Largest Frobenius norm a layer's scaled delta-W may have; None is no limit.
        reader: Of a `ContextHypernet`, which reads tokens beside embeddings; else None. It has
            the shape of neither variant: an output a rank, shared by the layers.
    """

    lora: LoraSpec
    embedding_dim: int
    encoder: str
    encoder_fingerprint: str
    variant: Variant = "L"
    latent_size: int = 128
    head_in: int = 512
    dropout: float = 0.05
    output: Output = "offset"
    max_delta_norm: float | None = None
    reader: ReaderConfig | None = None


class LoraPair(NamedTuple):
    """The LoRA pairs of one target module, for a batch of tasks and all layers."""

    lora_A: Tensor  # [B, L, R, d_in]
    lora_B: Tensor  # [B, L, d_out, R]


class Hypernet(nn.Module):
    """
    Maps task embeddings to LoRA pairs.

    Semantics:
        lora_A = mean_A + std_A * head(features)_A, and the same for lora_B. With
        ``output="offset"`` the mean is learned (A ~ U(+-1/sqrt(d_in)), B = 0 at the start), std
        is 1 and the heads start at zero: delta-W = 0 before training, for every variant.

    Args:
        config: The shapes.
    """

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__()
        self.config = config
        lora, width, dropout = config.lora, config.latent_size, config.dropout
        self.task = nn.Sequential(
            nn.Linear(config.embedding_dim, width // 2), nn.LayerNorm(width // 2)
        )
        self.layer = _NormedTable(lora.n_layers, width // 4)
        self.module = _NormedTable(len(lora.modules), width // 4)
        self.mixer = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
        )
        self.mlp1 = _Block(width, width, dropout, residual=True)
        self.mlp2 = _Block(width, width, dropout, residual=True)
        self.mlp3 = _Block(width, config.head_in, dropout, residual=False)
        if config.variant != "L":
            self.side = _NormedTable(len(lora.modules), 2, width)  # A or B
        if config.variant == "S":
            self.rank = _NormedTable(lora.rank, width)
        self.heads = nn.ModuleDict()
        self.affine_A = nn.ModuleDict()
        self.affine_B = nn.ModuleDict()
        for module in lora.modules:
            self._add_head(module)

    def _add_head(self, module: ModuleShape) -> None:
        config, lora = self.config, self.config.lora
        widths = {
            "L": lora.rank * (module.d_in + module.d_out),
            "M": lora.rank * max(module.d_in, module.d_out),
            "S": max(module.d_in, module.d_out),
        }
        head = nn.Linear(config.head_in, widths[config.variant], bias=False)
        mean_a = torch.zeros(lora.n_layers, lora.rank, module.d_in)
        mean_b = torch.zeros(lora.n_layers, module.d_out, lora.rank)
        affine: type[_Offset | _ZScore] = _ZScore
        if config.output == "offset":
            affine = _Offset
            nn.init.zeros_(head.weight)
            bound = 1 / math.sqrt(module.d_in)
            nn.init.uniform_(mean_a, -bound, bound)
        self.heads[module.name] = head
        self.affine_A[module.name] = affine(mean_a)
        self.affine_B[module.name] = affine(mean_b)

    def forward(self, task: Tensor) -> dict[str, LoraPair]:
        """
        Write the adapters of a batch of tasks.

        Args:
            task: Task embeddings, ``[B, D]`` float32, unit L2 norm.

        Returns:
            Target module -> its pairs, float32, scaling not applied.
        """
        features = self._features(task)
        pairs = {}
        for i, module in enumerate(self.config.lora.modules):
            a, b = self._apply_head(module, features[:, :, i])
            pairs[module.name] = LoraPair(
                self.affine_A[module.name](a), self.affine_B[module.name](b)
            )
        return pairs

    def _features(self, task: Tensor) -> Tensor:
        """Head inputs ``[B, L, M, ...]``: M and S add an axis for A and B, S one for the rank."""
        config, lora = self.config, self.config.lora
        shape = (len(task), lora.n_layers, len(lora.modules), -1)
        # Embeddings come with unit norm; the network wants unit variance.
        x = self.task(task * math.sqrt(config.embedding_dim))
        x = torch.cat(
            [
                x[:, None, None].expand(shape),
                self.layer()[None, :, None].expand(shape),
                self.module()[None, None].expand(shape),
            ],
            dim=-1,
        )
        x = self.mlp1(self.mixer(x))
        if config.variant == "L":
            return self._last(self.mlp2(x))
        x = self.mlp2(x[..., None, :] + self.side())  # [B, L, M, 2, width]
        if config.variant == "M":
            return self._last(x)
        return self._last(self.mlp2(x[..., None, :] + self.rank()))  # [B, L, M, 2, R, width]

    def _last(self, x: Tensor) -> Tensor:
        features: Tensor = self.mlp3(x)
        return features

    def _apply_head(self, module: ModuleShape, features: Tensor) -> tuple[Tensor, Tensor]:
        """Shape one module's head outputs into ``[B, L, R, d_in]`` and ``[B, L, d_out, R]``."""
        rank = self.config.lora.rank
        out: Tensor = self.heads[module.name](features)
        if self.config.variant == "L":
            a, b = out.split([rank * module.d_in, rank * module.d_out], dim=-1)
            a, b = a.unflatten(-1, (rank, module.d_in)), b.unflatten(-1, (rank, module.d_out))
        else:
            if self.config.variant == "M":
                out = out.unflatten(-1, (rank, -1))
            a, b = out.unbind(dim=2)  # [B, L, R, max(d_in, d_out)] each
            a, b = a[..., : module.d_in], b[..., : module.d_out]
        return a, b.mT


class _Block(nn.Module):
    """LayerNorm, then two linear maps with a SiLU after each, optionally beside a residual."""

    def __init__(self, width: int, out: int, dropout: float, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(nn.functional.silu(self.expand(self.norm(x))))
        y = nn.functional.silu(self.project(hidden))
        # The last block feeds the head directly: no dropout there, as in the paper's code.
        return x + self.dropout(y) if self.residual else y


class _NormedTable(nn.Module):
    """A table of learned vectors with one LayerNorm."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self.norm = nn.LayerNorm(shape[-1])

    def forward(self) -> Tensor:
        normed: Tensor = self.norm(self.weight)
        return normed


class _Offset(nn.Module):
    """Adds a learned mean."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + x


class _ZScore(nn.Module):
    """Undoes the normalisation of target LoRAs: their mean and spread are data, not parameters."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.ones_like(mean))

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.std * x
