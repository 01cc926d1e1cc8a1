"""
Several hypernetworks that write one adapter together: the mean of theirs.

Networks that were trained apart err in different ways, and most where a description tells little.
The mean of their adapters keeps what they agree on.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2l_router.context import ANSWER, DESCRIPTION, Reading
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.errors import ConfigError
from t2l_router.hypernet import Hypernet, HypernetConfig, LoraPair
from t2l_router.lora import LoraSpec, ModuleShape

AnyHypernet = Hypernet | ContextHypernet
# 99 % of the descriptions that embeddings were learned from have at most 41 tokens; beyond 48 those
# who read the tokens do better alone.
SENTENCE_MOST = 48


class MeanHypernet(nn.Module):
    """
    Writes the mean of its members' adapters.

    Semantics:
        delta_W = the mean of the delta_W of those members that can take all that is known of a
        task: a member that takes embeddings alone has no say where there are examples, no
        description, or one of more than `SENTENCE_MOST` tokens. A member changes nothing in
        modules that it was not trained for. Ranks stand side by side: the adapter's is the sum of
        the members'.

    Args:
        members: At least two, for one base model and one encoder; those that read tokens read the
            same layers.

    Raises:
        ConfigError: They don't go together.
    """

    def __init__(self, members: Sequence[AnyHypernet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._configs = [member.config for member in members]
        self.config = _joined(self._configs)

    def forward(self, known: Tensor | Reading) -> dict[str, LoraPair]:
        """
        Write the adapters of a batch of tasks.

        Args:
            known: ``[B, D]`` embeddings of descriptions, or what was read of B tasks.

        Returns:
            Target module -> its pairs, float32, scaling not applied.
        """
        embeddings = known.embeddings if isinstance(known, Reading) else known
        is_told = embeddings.any(1)
        if isinstance(known, Reading):
            is_told &= ~(known.kinds == ANSWER).any(1)
            is_told &= (known.kinds == DESCRIPTION).sum(1) <= SENTENCE_MOST
        always = torch.ones_like(is_told)
        votes = torch.stack([always if c.reader else is_told for c in self._configs]).float()
        shares = votes / votes.sum(0)  # of a task: 1 together
        parts = []
        for member, config, share in zip(self.members, self._configs, shares, strict=True):
            pairs = member(known if config.reader else embeddings)
            scale = share * config.lora.scaling / self.config.lora.scaling
            parts.append((config.lora, pairs, scale[:, None, None, None]))
        return {module.name: _side_by_side(module, parts) for module in self.config.lora.modules}


_Part = tuple[LoraSpec, dict[str, LoraPair], Tensor]


def _side_by_side(module: ModuleShape, parts: Sequence[_Part]) -> LoraPair:
    a, b = [], []
    for lora, pairs, scale in parts:
        if module.name in pairs:
            a.append(pairs[module.name].lora_A)
            b.append(pairs[module.name].lora_B * scale)
        else:
            n = len(scale)
            a.append(scale.new_zeros(n, lora.n_layers, lora.rank, module.d_in))
            b.append(scale.new_zeros(n, lora.n_layers, module.d_out, lora.rank))
    return LoraPair(torch.cat(a, 2), torch.cat(b, 3))


def _joined(configs: Sequence[HypernetConfig]) -> HypernetConfig:
    first = configs[0]
    for other in configs[1:]:
        if not _is_same_base(first.lora, other.lora):
            raise ConfigError(
                f"hypernetworks for {_base(first.lora)} and {_base(other.lora)} "
                "can't write one adapter together"
            )
        if other.encoder_fingerprint != first.encoder_fingerprint:
            raise ConfigError(
                f"hypernetworks that take embeddings of {first.encoder} "
                f"({first.encoder_fingerprint[:12]}) and of {other.encoder} "
                f"({other.encoder_fingerprint[:12]}) can't write one adapter together"
            )
    readers = [config.reader for config in configs if config.reader]
    if len({reader.depths for reader in readers}) > 1:
        raise ConfigError(
            "hypernetworks that read different layers can't write one adapter together"
        )
    modules = {module.name: module for config in configs for module in config.lora.modules}
    limits = [config.max_delta_norm for config in configs]
    return dataclasses.replace(
        first,
        lora=dataclasses.replace(
            first.lora,
            modules=tuple(modules[name] for name in sorted(modules)),
            rank=sum(config.lora.rank for config in configs),
        ),
        reader=readers[0] if readers else None,
        # A mean is no larger than the largest.
        max_delta_norm=None if None in limits else max(limit for limit in limits if limit),
    )


def _base(lora: LoraSpec) -> str:
    return f"{lora.base_model} ({lora.n_layers} layers, {lora.base_fingerprint[:12]})"


def _is_same_base(one: LoraSpec, two: LoraSpec) -> bool:
    shapes = {module.name: module for module in one.modules}
    return (one.base_model, one.base_fingerprint, one.n_layers) == (
        two.base_model,
        two.base_fingerprint,
        two.n_layers,
    ) and all(shapes.get(module.name, module) == module for module in two.modules)
