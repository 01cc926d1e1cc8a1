"""Forward passes of Llama-shaped models on a CPU, with a third of transformers' operations."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import PreTrainedModel

from t2l_router.engines.attention import attend
from t2l_router.engines.kv import KvWindow
from t2l_router.engines.native.llama import NativeStep

# Models whose layers are a Llama's: two RMS norms, rotated queries and keys, a gated MLP.
_KINDS = frozenset({"llama", "mistral", "qwen2"})


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor  # [D] float32
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    mlp_norm: Tensor  # [D] float32
    gate: nn.Module
    up: nn.Module
    down: nn.Module


class LlamaForward:
    """
    The same function as a model's own forward, over the same modules.

    A step of a small model is otherwise spent in Python and in operations on a few hundred numbers.
    The hidden state stays in float32 between the layers, so in bfloat16 the logits are not the last
    bit's the same.

    Args:
        model: In evaluation mode; see `fits`. Its linear modules may be replaced before.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        inner: Any = model.get_decoder()
        self._embed = inner.embed_tokens
        self._rotary = inner.rotary_emb
        self._head: Any = model.get_output_embeddings()
        self._dtype = model.dtype
        self._norm = inner.norm.weight.detach().float()
        self._eps: float = inner.norm.variance_epsilon
        first: Any = inner.layers[0]
        self._act = first.mlp.act_fn
        self._d_head: int = first.self_attn.head_dim
        self._scaling: float = first.self_attn.scaling
        self._layers = [
            _Layer(
                layer.input_layernorm.weight.detach().float(),
                layer.self_attn.q_proj,
                layer.self_attn.k_proj,
                layer.self_attn.v_proj,
                layer.self_attn.o_proj,
                layer.post_attention_layernorm.weight.detach().float(),
                layer.mlp.gate_proj,
                layer.mlp.up_proj,
                layer.mlp.down_proj,
            )
            for layer in inner.layers
        ]
        self._step = self._native_step()

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether it knows a model's layers, and the model is on a CPU."""
        config: Any = model.config
        layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
        return (
            model.device.type == "cpu"
            and config.model_type in _KINDS
            and layer_types == {"full_attention"}
            and (config.model_type != "mistral" or config.sliding_window is None)
        )

    def read(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> None:
        """Write the keys and values of new tokens; see `decode`."""
        self._hidden(ids, positions, mask, window)

    def decode(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> Tensor:
        """
        Read new tokens.

        Args:
            ids: ``[batch, new]`` int64.
            positions: Where they are, ``[batch, new]`` int64.
            mask: ``[batch, 1, new, length]`` bool.
            window: Takes their keys and values.

        Returns:
            The logits after each row's last token, ``[batch, vocab_size]``.
        """
        if self._step is not None and ids.shape[1] == 1:
            cos, sin = self._rotary(self._norm.bfloat16(), positions)
            return self._step(
                ids,
                positions,
                cos=cos[:, 0].float(),
                sin=sin[:, 0].float(),
                first=window.first,
                bank=window.bank,
            )
        last = self._hidden(ids, positions, mask, window)[:, -1]
        logits: Tensor = self._head(self._normed(last, self._norm))
        return logits

    def _native_step(self) -> NativeStep | None:
        """The step in C, if the weights are as it reads them."""
        layers = [[x.q, x.k, x.v, x.o, x.gate, x.up, x.down] for x in self._layers]
        modules = [*(module for layer in layers for module in layer), self._head]
        if not NativeStep.fits(modules, d=len(self._norm), d_head=self._d_head, act=self._act):
            return None
        return NativeStep(
            layers,
            [(layer.attention_norm, layer.mlp_norm) for layer in self._layers],
            norm=self._norm,
            head=self._head,
            embedding=self._embed.weight.detach(),
            d_head=self._d_head,
            eps=self._eps,
            scaling=self._scaling,
        )

    def _hidden(self, ids: Tensor, positions: Tensor, mask: Tensor, window: KvWindow) -> Tensor:
        embedded = self._embed(ids)
        cos, sin = self._rotary(embedded, positions)
        cos, sin = cos[:, :, None], _signed(sin)[:, :, None]
        shape = (*ids.shape, -1, self._d_head)
        hidden: Tensor = embedded.float()  # [batch, new, D]
        for number, layer in enumerate(self._layers):
            x = self._normed(hidden, layer.attention_norm)
            q = _rotated(layer.q(x).view(shape), cos, sin)
            k = _rotated(layer.k(x).view(shape), cos, sin)
            v = layer.v(x).view(shape)
            keys, values = window.update(k.transpose(1, 2), v.transpose(1, 2), number)
            out, _ = attend(None, q.transpose(1, 2), keys, values, mask, scaling=self._scaling)
            hidden = hidden + layer.o(out.flatten(2))
            x = self._normed(hidden, layer.mlp_norm)
            hidden = hidden + layer.down(self._act(layer.gate(x)).mul_(layer.up(x)))
        return hidden

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, list(weight.shape), weight, self._eps).to(self._dtype)


def _signed(sin: Tensor) -> Tensor:
    """The sines as `_rotated` wants them: those of the first half negative."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``[batch, new, heads, d]`` by its position."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
