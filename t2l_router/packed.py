"""Linear layers laid out as a CPU's kernels read them: nothing is rounded, less time is taken."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

_ROWS_EXPECTED = 24  # tokens of a task description; other numbers are right as well
_TOLERANCE = 1e-4


class PackedLinear(nn.Module):
    """
    A linear module in float32 whose weights oneDNN need not bring into order at each call.

    Args:
        linear: What it replaces, in float32 on a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        weight = linear.weight.detach().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_EXPECTED)  # noqa: SLF001 - as inductor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")  # noqa: SLF001 - as inductor
        return y


def pack(model: nn.Module) -> None:
    """Replace a model's linear modules, where this build of torch can."""
    with torch.inference_mode():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and (packed := _packed(child)) is not None:
                    setattr(parent, name, packed)


def _packed(linear: nn.Linear) -> PackedLinear | None:
    if linear.weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return None
    sample = torch.linspace(-1, 1, linear.in_features).expand(2, -1)
    try:
        packed = PackedLinear(linear)
        off = (packed(sample) - F.linear(sample, linear.weight, linear.bias)).abs().max()
    except (RuntimeError, AttributeError):  # these operators have no public name
        return None
    return packed if float(off) < _TOLERANCE else None
