"""A decode step of a Llama-shaped model as one call."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2l_router.engines.native.weights import Matrix, NativeLinear
from t2l_router.engines.slots import AdaptedLinear

N_MATRICES = 7  # q, k, v, o, gate, up, down
_LANES = 16


class _Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_void_p), ("b", ctypes.c_void_p))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("matrices", Matrix * N_MATRICES),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_layers", "d", "heads", "kv_heads")),
        *((name, ctypes.c_int64) for name in ("d_head", "d_mlp")),
        ("eps", ctypes.c_float),
        ("scaling", ctypes.c_float),
        ("layers", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("head", Matrix),
        ("embedding", ctypes.c_void_p),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "rank", "first", "length", "threads")),
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "cos", "sin")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "pairs", "scratch", "logits")),
    )


class NativeStep:
    """
    Reads one token of each row, with an adapter each; see `fits`.

    Args:
        layers: The linear modules of each layer, in the order of `N_MATRICES`.
        norms: The two norms' weights of each layer, ``[D]`` float32.
        norm: The last norm's.
        head: The output layer.
        embedding: ``[vocab_size, D]`` bfloat16.
        d_head: Width of a head.
        eps: Of the norms.
        scaling: Of the attention's products.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        norms: Sequence[tuple[Tensor, Tensor]],
        *,
        norm: Tensor,
        head: NativeLinear,
        embedding: Tensor,
        d_head: int,
        eps: float,
        scaling: float,
    ) -> None:
        self._modules = layers
        linears = [[_linear(module) for module in layer] for layer in layers]
        self._layers = (_Layer * len(layers))()
        for held, row, (first, second) in zip(self._layers, linears, norms, strict=True):
            held.attention_norm, held.mlp_norm = first.data_ptr(), second.data_ptr()
            held.matrices = (Matrix * N_MATRICES)(*(linear.matrix for linear in row))
        q, k, _v, _o, gate, _up, _down = linears[0]
        self._model = _Model(
            len(layers),
            len(norm),
            q.out_features // d_head,
            k.out_features // d_head,
            d_head,
            gate.out_features,
            eps,
            scaling,
            ctypes.addressof(self._layers),
            norm.data_ptr(),
            head.matrix,
            embedding.data_ptr(),
        )
        self._held = (linears, norms, norm, head, embedding)  # what the pointers point to
        self._kernels = head._kernels  # noqa: SLF001 - the same for all
        self._kernels.t2l_scratch.restype = ctypes.c_int64
        self._logits = torch.empty(0, head.out_features)
        self._scratch = torch.empty(0)
        self._pairs = (_Pair * (len(layers) * N_MATRICES))()
        self._adapted = [
            (at, module)
            for at, module in enumerate(module for layer in layers for module in layer)
            if isinstance(module, AdaptedLinear)
        ]

    @staticmethod
    def fits(modules: Sequence[nn.Module], *, d: int, d_head: int, act: Any) -> bool:
        """Whether it can run a model of these linear modules."""
        silu = isinstance(act, nn.SiLU) or type(act).__name__ == "SiLUActivation"
        are_native = all(isinstance(_linear(module), NativeLinear) for module in modules)
        return are_native and silu and d % _LANES == 0 and d_head % _LANES == 0

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        *,
        cos: Tensor,
        sin: Tensor,
        first: int,
        bank: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """
        Write the tokens' keys and values, and give the logits after them.

        Args:
            ids: ``[rows, 1]`` int64.
            positions: As *ids*.
            cos: ``[rows, d_head]`` float32.
            sin: As *cos*.
            first: The bank's row of the first row.
            bank: Keys and values per layer, ``[bank rows, kv_heads, length, d_head]`` bfloat16.

        Returns:
            ``[rows, vocab_size]`` float32, until the next call.
        """
        rows, length, threads = len(ids), bank[0][0].shape[2], torch.get_num_threads()
        rank, pairs = self._seen_pairs()
        sizes = (rows, rank, length, threads)
        need = self._kernels.t2l_scratch(ctypes.byref(self._model), *map(ctypes.c_int64, sizes))
        if need > len(self._scratch):
            self._scratch = torch.empty(need)
        if rows > len(self._logits):
            self._logits = torch.empty(rows, self._logits.shape[1])
        pointers = ctypes.c_void_p * len(bank)
        keys = pointers(*(keys.data_ptr() for keys, _ in bank))
        values = pointers(*(values.data_ptr() for _, values in bank))
        ids, positions = ids.contiguous(), positions.contiguous()
        step = _Step(
            *(rows, rank, first, length, threads),
            *(tensor.data_ptr() for tensor in (ids, positions, cos, sin)),
            *(ctypes.addressof(keys), ctypes.addressof(values), pairs),
            *(self._scratch.data_ptr(), self._logits.data_ptr()),
        )
        self._kernels.t2l_step(ctypes.byref(self._model), ctypes.byref(step))
        return self._logits[:rows]

    def _seen_pairs(self) -> tuple[int, int | None]:
        """The adapters' rank and where their pairs are, as the modules see them now."""
        rank = 0
        for at, module in self._adapted:
            a, b = module.lora_A, module.lora_B
            if a is None or b is None:
                return 0, None
            rank = a.shape[1]
            self._pairs[at].a, self._pairs[at].b = a.data_ptr(), b.data_ptr()
        return rank, ctypes.addressof(self._pairs) if self._adapted else None


def _linear(module: Any) -> Any:
    return module.base if isinstance(module, AdaptedLinear) else module
