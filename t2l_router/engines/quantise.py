"""Weights in the form that a CPU multiplies fastest: reading the weights is what a token costs."""

import ctypes
import logging
import threading

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router.engines.native.weights import NativeLinear

logger = logging.getLogger(__name__)
_scratch = threading.local()

GROUP = 32  # inputs that share a scale in 4 bits; Q4_0 and Q4_1 files have the same groups
_SAMPLED = 64  # outputs that show what rounding loses
_EMULATED_ROWS = 4  # from so many rows on float32 is faster than an emulated bfloat16
_PIECE = 1 << 20  # weights that are widened at once; they stay in a core's cache
_ROWS_EXPECTED = 8  # what oneDNN lays weights out for; other numbers are right as well


class PackedLinear(nn.Linear):
    """
    A linear module in bfloat16 whose weights lie as oneDNN's kernels read them.

    Plain weights are brought into that order again in every call.

    Args:
        linear: What it replaces, in any floating dtype, on a CPU.
    """

    few_rows = 0  # up to so many rows `_few` is faster

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        self.bias = linear.bias
        del self.weight  # held in other forms only
        self._is_laid_out = can_lay_out()
        held = self._hold(linear.weight.detach()).contiguous()
        self._many: Tensor = (
            torch.ops.mkldnn._reorder_linear_weight(held, _ROWS_EXPECTED)  # noqa: SLF001 - as inductor
            if self._is_laid_out
            else held
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]``."""
        n_rows = x.numel() // self.in_features
        if n_rows > self.few_rows:
            if not self._is_laid_out:
                return _emulated(x, self._many, self.bias)
            y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - as inductor does
                x, self._many, self.bias, "none", [], ""
            )
            return y
        y = self._few(x.reshape(n_rows, self.in_features).contiguous())
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _hold(self, weight: Tensor) -> Tensor:
        """Keep what `_few` needs and return the weights as they are from now on."""
        return weight.bfloat16()

    def _few(self, rows: Tensor) -> Tensor:
        """Multiply few rows by the rounded weights, without the bias; every form has its own."""
        raise NotImplementedError


class Int8Linear(PackedLinear):
    """
    A linear module with weights rounded to 8 bits and a scale for each output.

    The rounded weights are held twice, as integers for few rows and in bfloat16 for many, where the
    integers' kernel is several times slower, so that the model is the same whatever the batch.
    """

    few_rows = 4

    def _hold(self, weight: Tensor) -> Tensor:
        self._integers, self._scales = _rounded_to_8_bits(weight)
        return self._integers.bfloat16() * self._scales[:, None]

    def _few(self, rows: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(rows, self._integers, self._scales)  # noqa: SLF001


class Int4Linear(PackedLinear):
    """
    A linear module with weights rounded to 4 bits, with a scale and a zero for each 32 inputs.

    Held twice, as `Int8Linear` is.
    """

    few_rows = 8

    def _hold(self, weight: Tensor) -> Tensor:
        integers, scales, zeros = _rounded_to_4_bits(weight)
        self._integers = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1)  # noqa: SLF001
        self._scales = torch.stack([scales, zeros], dim=-1).transpose(0, 1).contiguous()
        return _from_4_bits(integers, scales, zeros).bfloat16()

    def _few(self, rows: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001 - torchao calls it
            rows, self._integers, GROUP, self._scales
        )
        return y


def quantise(model: nn.Module, kind: str, kernels: ctypes.CDLL | None = None) -> None:
    """
    Replace every linear module of a model on a CPU, in place.

    Args:
        model: In bfloat16.
        kernels: Compute ``bfloat16`` where they know the shape; see `native.build.library`.
        kind: ``bfloat16`` is as exact as before, ``int8`` rounds to 8 bits, and ``int4`` to 4 where
            that loses no more than 8 bits would, as with weights that come from a file in 4 bits.
    """
    counts: dict[str, int] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                new: nn.Linear
                if kind == "bfloat16" and kernels is not None and NativeLinear.fits(child):
                    new = NativeLinear(child, kernels)
                    form = f"native in {new.bits} bits"
                else:
                    new = _form(child, kind)(child)
                    form = type(new).__name__
                counts[form] = counts.get(form, 0) + 1
                setattr(parent, name, new)
    logger.info("weights as %s: %s", kind, counts)


def can_lay_out() -> bool:
    """Whether oneDNN has kernels for bfloat16 on this host."""
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - it has no public name
    )


def _emulated(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """
    Multiply where the CPU has no products for bfloat16: several rows by those for float32.

    torch's own take six times as long for a prompt, the weights' widening counted.
    """
    if x.numel() < _EMULATED_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    wide = x.float()
    pieces = weight.split(max(1, _PIECE // weight.shape[1]))
    y = torch.cat([F.linear(wide, _widened(piece)) for piece in pieces], dim=-1)
    return (y if bias is None else y + bias).to(x.dtype)


def _widened(piece: Tensor) -> Tensor:
    """The same in float32 until this thread asks again; fresh memory takes longer than sums."""
    room: Tensor | None = getattr(_scratch, "room", None)
    if room is None or room.numel() < piece.numel():
        with torch.inference_mode(mode=False):  # else nothing outside that mode could write to it
            room = _scratch.room = torch.empty(max(piece.numel(), _PIECE))
    return room[: piece.numel()].view_as(piece).copy_(piece)


def _form(linear: nn.Linear, kind: str) -> type[PackedLinear]:
    if kind == "bfloat16":
        return PackedLinear
    # The kernel's own limits.
    fits_4_bits = linear.in_features % GROUP == 0 and linear.out_features % 16 == 0
    if kind == "int8" or not fits_4_bits:
        return Int8Linear
    some = linear.weight.detach()[:: max(1, linear.out_features // _SAMPLED)]
    integers, scales = _rounded_to_8_bits(some)
    in_8_bits = _distance(integers.float() * scales.float()[:, None], some)
    in_4_bits = _distance(_from_4_bits(*_rounded_to_4_bits(some)), some)
    return Int4Linear if in_4_bits <= in_8_bits else Int8Linear


def _distance(rounded: Tensor, weight: Tensor) -> float:
    return float((rounded.float() - weight.float()).norm())


def _rounded_to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers ``[d_out, d_in]`` int8 and scales ``[d_out]`` bfloat16."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1).clamp_min(1e-12) / 127).bfloat16()
    integers = (weight / scales.float()[:, None]).round().clamp(-127, 127)
    return integers.to(torch.int8), scales


def _rounded_to_4_bits(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Integers ``[d_out, d_in]`` int32, scales and zeros ``[d_out, d_in / 32]`` bfloat16.

    Semantics:
        weight = (integer - 8) * scale + zero
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    least, most = groups.amin(dim=-1), groups.amax(dim=-1)
    scales = ((most - least) / 15).clamp_min(1e-12).bfloat16()
    zeros = (least + 8 * scales.float()).bfloat16()
    integers = ((groups - zeros.float()[..., None]) / scales.float()[..., None] + 8).round()
    return integers.clamp(0, 15).flatten(1).int(), scales, zeros


def _from_4_bits(integers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    groups = integers.float().unflatten(1, (-1, GROUP)) - 8
    weight: Tensor = (groups * scales.float()[..., None] + zeros.float()[..., None]).flatten(1)
    return weight
