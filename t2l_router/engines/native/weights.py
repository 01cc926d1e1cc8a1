"""Linear modules whose weights lie as the kernels read them."""

import ctypes

import torch
from torch import Tensor, nn

GROUP, STRIP = 32, 16  # as in linear.c


class Matrix(ctypes.Structure):
    """As in linear.c."""

    _fields_ = (
        ("bits", ctypes.c_int64),
        ("d_out", ctypes.c_int64),
        ("d_in", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class NativeLinear(nn.Linear):
    """
    A linear module in bfloat16 that is computed by the kernels, without autograd.

    Weights that came from a file in 4 or 8 bits are held so again, if that gives every bit of them:
    a token costs the reading of the weights. Nothing is rounded, here or in the sums, that isn't
    in a module in bfloat16.

    Args:
        linear: What it replaces, on a CPU; see `fits`.
        kernels: The library.
    """

    def __init__(self, linear: nn.Linear, kernels: ctypes.CDLL) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        del self.weight  # held in other forms only
        self._kernels = kernels
        weight = linear.weight.detach().bfloat16().contiguous()
        self.bits, *held = _hold(weight, kernels)
        if linear.bias is not None:
            held.append(linear.bias.detach().float().contiguous())
        self._held = held  # what the pointers point to
        pointers = [tensor.data_ptr() for tensor in held]
        weights, scales, zeros = pointers[:3]
        bias = pointers[3] if linear.bias is not None else None
        self.matrix = Matrix(
            self.bits, self.out_features, self.in_features, weights, scales, zeros, bias
        )

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        """Whether the kernels know its shape."""
        return linear.in_features % GROUP == 0 and linear.out_features % STRIP == 0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]``, both bfloat16."""
        assert x.dtype == torch.bfloat16, f"{x.dtype}; the kernels read bfloat16"
        x = x.contiguous()
        n_rows = x.numel() // self.in_features
        y = x.new_empty(*x.shape[:-1], self.out_features)
        totals = torch.empty(n_rows * self.in_features // GROUP, dtype=torch.float32)
        self._kernels.t2l_linear(
            ctypes.byref(self.matrix),
            ctypes.c_int64(n_rows),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_void_p(y.data_ptr()),
            ctypes.c_void_p(totals.data_ptr()),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return y


def _hold(weight: Tensor, kernels: ctypes.CDLL) -> tuple[int, Tensor, Tensor, Tensor]:
    """Bits a weight, and weights, scales and zeros in strips; the latter two only if needed."""
    d_out, d_in = weight.shape
    n_groups = weight.numel() // GROUP
    integers = torch.empty(d_out, d_in, dtype=torch.int8)
    scales = torch.empty(d_out, d_in // GROUP, dtype=torch.float16)
    zeros = torch.empty_like(scales)
    for bits in (4, 8):
        found = kernels.t2l_find_grid(
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_int64(n_groups),
            ctypes.c_int64(bits),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (integers, scales, zeros)),
        )
        if found:
            pack = _packed_4 if bits == 4 else _pairs  # noqa: PLR2004
            return bits, pack(integers), _strips(scales), _strips(zeros)
    nothing = torch.empty(0)
    return 16, _pairs(weight), nothing, nothing


def _strips(numbers: Tensor) -> Tensor:
    """``[d_out, groups]`` as ``[strip, group, 16]``."""
    return numbers.reshape(-1, STRIP, numbers.shape[1]).transpose(1, 2).contiguous()


def _pairs(weight: Tensor) -> Tensor:
    """``[d_out, d_in]`` as ``[strip, pair of inputs, 16, 2]``."""
    return weight.reshape(-1, STRIP, weight.shape[1] // 2, 2).transpose(1, 2).contiguous()


def _packed_4(integers: Tensor) -> Tensor:
    """``[d_out, d_in]`` in 0..15 as ``[strip, four pairs, 16, 2]`` int16, the first pair lowest."""
    quads: Tensor = _pairs(integers).unflatten(1, (-1, 4)).int()  # [strip, quad, 4, 16, 2]
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32)[:, None, None]
    words = (quads << shifts).sum(dim=2, dtype=torch.int32)
    return words.to(torch.int16).contiguous()
