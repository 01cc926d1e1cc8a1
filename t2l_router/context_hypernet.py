"""The hypernetwork over a `Reader`: a rank's features become its row of A and its column of B."""

import math

import torch
from torch import Tensor, nn

from t2l_router.context import Reading
from t2l_router.hypernet import HypernetConfig, LoraPair
from t2l_router.reader import Reader


class ContextHypernet(nn.Module):
    """
    Maps what is read of tasks to LoRA pairs.

    Semantics:
        lora_A = mean_A + head_A(features), and lora_B = mean_B + head_B(features) + gate(features)
        * copy(what is copied). Means are learned, heads start at zero: delta-W = 0 before training.

    Args:
        config: The shapes; ``reader`` is set.
    """

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__()
        assert config.reader is not None
        self.config = config
        lora, reader = config.lora, config.reader
        self.reader = Reader(reader, lora, config.embedding_dim, config.dropout)
        self.mean_A, self.mean_B = nn.ParameterDict(), nn.ParameterDict()
        self.head_A, self.head_B, self.copy_B = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for module in lora.modules:
            bound = 1 / math.sqrt(module.d_in)
            mean = torch.empty(lora.n_layers, lora.rank, module.d_in).uniform_(-bound, bound)
            self.mean_A[module.name] = nn.Parameter(mean)
            self.mean_B[module.name] = nn.Parameter(
                torch.zeros(lora.n_layers, lora.rank, module.d_out)
            )
            self.head_A[module.name] = _zero(reader.width, module.d_in)
            self.head_B[module.name] = _zero(reader.width, module.d_out)
            if reader.copies:
                self.copy_B[module.name] = _zero(reader.hidden, module.d_out)
        if reader.copies:
            self.gate = nn.Linear(reader.width, len(lora.modules))
            nn.init.ones_(self.gate.bias)

    def forward(self, reading: Reading) -> dict[str, LoraPair]:
        """
        Write the adapters of a batch of tasks.

        Args:
            reading: Of B tasks.

        Returns:
            Target module -> its pairs, float32, scaling not applied.
        """
        features, copied = self.reader(reading)
        # Small inputs: a step of the optimiser moves the heads by as much as they have inputs.
        features = features / math.sqrt(features.shape[-1])
        copied = copied / math.sqrt(copied.shape[-1]) if copied is not None else None
        gates = self.gate(features) if copied is not None else None
        pairs = {}
        for i, name in enumerate(self.mean_A):
            a: Tensor = self.mean_A[name] + self.head_A[name](features)
            b: Tensor = self.mean_B[name] + self.head_B[name](features)
            if gates is not None:
                b = b + gates[..., i, None] * self.copy_B[name](copied)
            pairs[name] = LoraPair(a, b.mT)
        return pairs


def _zero(d_in: int, d_out: int) -> nn.Linear:
    linear = nn.Linear(d_in, d_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
