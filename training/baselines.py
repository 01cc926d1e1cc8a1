"""What a hypernetwork has to beat, trained with the same data, budget and code."""

import math

import torch
from torch import Tensor, nn

from t2l_router.errors import ConfigError
from t2l_router.hypernet import Hypernet, LoraPair
from t2l_router.lora import LoraSpec, LoraWeights


class SharedAdapter(nn.Module):
    """
    One adapter for all tasks: the multi-task LoRA.

    Args:
        spec: Its shapes. A ~ U(+-1/sqrt(d_in)) and B = 0 at the start, as PEFT does.
    """

    def __init__(self, spec: LoraSpec) -> None:
        super().__init__()
        self.spec = spec
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        for module in spec.modules:
            bound = 1 / math.sqrt(module.d_in)
            a = torch.empty(spec.n_layers, spec.rank, module.d_in).uniform_(-bound, bound)
            self.lora_A[module.name] = nn.Parameter(a)
            self.lora_B[module.name] = nn.Parameter(
                torch.zeros(spec.n_layers, module.d_out, spec.rank)
            )

    def forward(self, task: Tensor) -> dict[str, LoraPair]:
        """Give the same pairs to every task of ``[B, D]`` embeddings."""
        return {
            name: LoraPair(
                self.lora_A[name].expand(len(task), -1, -1, -1),
                self.lora_B[name].expand(len(task), -1, -1, -1),
            )
            for name in self.lora_A
        }

    def weights(self) -> LoraWeights:
        """The adapter as it is served: bf16."""
        return LoraWeights(
            self.spec,
            {name: tensor.detach().bfloat16() for name, tensor in self.lora_A.items()},
            {name: tensor.detach().bfloat16() for name, tensor in self.lora_B.items()},
        )


@torch.no_grad()
def start_from(hypernet: Hypernet, adapter: LoraWeights) -> None:
    """
    Let a new hypernetwork write *adapter* for every description, until training tells them apart.

    Raises:
        ConfigError: The adapter has other modules, rank or scaling.
    """
    spec, theirs = hypernet.config.lora, adapter.spec
    if (spec.modules, spec.rank, spec.scaling) != (theirs.modules, theirs.rank, theirs.scaling):
        raise ConfigError(
            f"the adapter to start from has rank {theirs.rank}, scaling {theirs.scaling:.3f} and "
            f"modules {', '.join(module.name for module in theirs.modules)}; train it with the "
            "same --rank and --targets"
        )
    for name in hypernet.affine_A:
        hypernet.affine_A[name].get_parameter("mean").copy_(adapter.lora_A[name])
        hypernet.affine_B[name].get_parameter("mean").copy_(adapter.lora_B[name])
