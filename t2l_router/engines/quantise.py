"""Weights in 8 bits, for decoding on a CPU: reading the weights is what a token costs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

# Rows up to which the packed kernel is faster than bfloat16's; with more it is several times
# slower, because it works row by row (measured at SmolLM2's shapes).
_FEW_ROWS = 4


class Int8Linear(nn.Linear):
    """
    A linear module with weights rounded to 8 bits and a scale for each output.

    The rounded weights are held twice, as integers for few rows and in bfloat16 for many, so that
    the model is the same whatever the size of the batch.

    Args:
        linear: What it replaces, in any floating dtype, on a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        packed = (weight / scale).round().to(torch.int8)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale[:, 0].bfloat16())
        self.packed: Tensor  # [d_out, d_in] int8
        self.scale: Tensor  # [d_out] bfloat16
        rounded = packed.bfloat16() * self.scale[:, None]
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]``."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) > _FEW_ROWS:
            return F.linear(x, self.weight, self.bias)
        y = torch._weight_int8pack_mm(rows, self.packed, self.scale)  # noqa: SLF001
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


def quantise(model: nn.Module) -> None:
    """Replace every linear module of a bfloat16 model on a CPU by an `Int8Linear`, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))
