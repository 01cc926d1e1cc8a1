"""
A hypernetwork that reads tokens: queries for every layer and rank attend to a task's context.

Source: Charakorn et al., Doc-to-LoRA, 2026 (a Perceiver over the base model's hidden states, an
output for each layer and rank). Ours reads tasks instead of documents, and copies: a rank's
lora_B may be the input embedding of a token it attends to, so that labels never seen in training
can be answered with.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router.context import EMBEDDING, FILLER, KINDS, NOTHING, Reading
from t2l_router.lora import LoraSpec

_CLIP = 5.0  # some hidden dimensions are huge now and then


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """
    The shape of what reads tokens.

    Args:
        depths: After which layers of the base model its hidden states are read.
        hidden: Width of the base model's hidden states.
        width: Of tokens and queries.
        n_heads: Of attention.
        n_blocks: How often the queries read.
        copies: Whether input embeddings are copied into lora_B.
    """

    depths: tuple[int, ...]
    hidden: int
    width: int = 384
    n_heads: int = 8
    n_blocks: int = 2
    copies: bool = True

    @property
    def raw(self) -> int:
        """Width of what is read of a token."""
        return len(self.depths) * self.hidden


class Reader(nn.Module):
    """
    Gives features for every layer and rank of an adapter.

    Args:
        config: Its shape.
        lora: The adapters.
        embedding_dim: D, of descriptions' embeddings.
        dropout: Of attention's and the perceptrons' outputs, training only.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ReaderConfig, lora: LoraSpec, embedding_dim: int, dropout: float
    ) -> None:
        super().__init__()
        assert config.depths[0] == 0 or not config.copies, "copies input embeddings: depth 0 first"
        self.config, self._shape = config, (lora.n_layers, lora.rank)
        d, raw = config.width, config.raw
        self.register_buffer("mean", torch.zeros(raw))
        self.register_buffer("std", torch.ones(raw))
        self.token = nn.Linear(raw, d)
        self.embedding = nn.Linear(embedding_dim, d)
        self.kind = nn.Embedding(KINDS, d)
        self.norm = nn.LayerNorm(d)
        self.layer = nn.Parameter(torch.randn(lora.n_layers, 1, d))
        self.rank = nn.Parameter(torch.randn(1, lora.rank, d))
        self.blocks = nn.ModuleList(
            _Block(d, config.n_heads, dropout) for _ in range(config.n_blocks)
        )
        self.last = nn.LayerNorm(d)
        if config.copies:
            self.seek, self.found = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, reading: Reading) -> tuple[Tensor, Tensor | None]:
        """Give features ``[N, L, R, width]``, and what to copy, ``[N, L, R, hidden]``."""
        raw = ((reading.states.float() - self.mean) / self.std).clamp(-_CLIP, _CLIP)
        n, width = len(reading), self.config.width
        embeddings = reading.embeddings * math.sqrt(reading.embeddings.shape[1])
        tokens = torch.cat(
            [
                self.token(raw) + self.kind(reading.kinds),
                (self.embedding(embeddings) + self.kind.weight[EMBEDDING])[:, None],
                self.kind.weight[NOTHING].expand(n, 1, width),
            ],
            1,
        )
        there = torch.cat(
            [
                reading.kinds != FILLER,
                (reading.embeddings != 0).any(1, keepdim=True),
                reading.kinds.new_ones(n, 1).bool(),
            ],
            1,
        )
        tokens = self.norm(tokens)
        x = (self.layer + self.rank).flatten(0, 1).expand(n, -1, width)
        for block in self.blocks:
            x = block(x, tokens, there)
        x = self.last(x)
        copied = self._copy(x, tokens, there, raw) if self.config.copies else None
        return x.unflatten(1, self._shape), copied

    def _copy(self, x: Tensor, tokens: Tensor, there: Tensor, raw: Tensor) -> Tensor:
        """Attend once more, to the input embeddings themselves."""
        scores = self.seek(x) @ self.found(tokens).mT / math.sqrt(self.config.width)
        weights = scores.masked_fill(~there[:, None], -torch.inf).softmax(-1)
        embedded = raw[..., : self.config.hidden]  # depths begin with 0
        copied: Tensor = (weights[..., : embedded.shape[1]] @ embedded).unflatten(1, self._shape)
        return copied


class _Block(nn.Module):
    """Queries attend to tokens, then to one another; a perceptron."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.across, self.among = _Attention(width, n_heads), _Attention(width, n_heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tensor, there: Tensor) -> Tensor:
        x = x + self.dropout(self.across(self.norms[0](x), tokens, there))
        y = self.norms[1](x)
        x = x + self.dropout(self.among(y, y, None))
        hidden = F.silu(self.expand(self.norms[2](x)))
        done: Tensor = x + self.dropout(self.project(self.dropout(hidden)))
        return done


class _Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, there: Tensor | None) -> Tensor:
        q, (k, v) = self.q(x), self.kv(tokens).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for y in (q, k, v))
        mask = there[:, None, None] if there is not None else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended
