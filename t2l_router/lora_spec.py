"""The shapes of adapters for one base model, read off the model's config."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from t2l_router.errors import CheckpointMismatch

DEFAULT_TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """
    One kind of target module, the same in every layer.

    Args:
        name: The module's own name, e.g. ``q_proj``.
        path: Its dotted path in the base model, with ``{layer}`` for the layer index.
        d_in: Input features.
        d_out: Output features.
    """

    name: str
    path: str
    d_in: int
    d_out: int


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """
    What adapters for one base model look like.

    Args:
        base_model: The base model's public name.
        base_fingerprint: Hash of its config, weights and tokenizer.
        n_layers: Decoder layers.
        modules: Target modules, sorted by name.
        rank: LoRA rank, at least 1.
        alpha: LoRA alpha.
        rslora: Scale by alpha / sqrt(rank) instead of alpha / rank.
    """

    base_model: str
    base_fingerprint: str
    n_layers: int
    modules: tuple[ModuleShape, ...]
    rank: int = 8
    alpha: float = 16.0
    rslora: bool = True

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        base_model: str,
        base_fingerprint: str,
        targets: Sequence[str] = DEFAULT_TARGETS,
        rank: int = 8,
    ) -> "LoraSpec":
        """
        Read the shapes of a decoder-only base model off its config; no weights are loaded.

        Args:
            config: The model's transformers config.
            base_model: Its public name.
            base_fingerprint: Its fingerprint.
            targets: Names of linear modules to adapt.
            rank: LoRA rank.

        Returns:
            The spec, with modules in sorted order, whatever order *targets* has.

        Raises:
            CheckpointMismatch: A target is no linear module of every decoder layer, or its shape
                differs between layers.
        """
        # Lazy: only this function needs transformers' model registry, which is slow to import.
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return cls.from_model(
            model,
            base_model=base_model,
            base_fingerprint=base_fingerprint,
            targets=targets,
            rank=rank,
        )

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        base_model: str,
        base_fingerprint: str,
        targets: Sequence[str] = DEFAULT_TARGETS,
        rank: int = 8,
    ) -> "LoraSpec":
        """Read the shapes off a model, on any device; otherwise as `from_config`."""
        found: dict[str, dict[int, tuple[str, int, int]]] = {name: {} for name in set(targets)}
        for path, module in model.named_modules():
            name = path.rpartition(".")[2]
            if name in found and isinstance(module, nn.Linear):
                layer, template = _split_layer(path)
                found[name][layer] = (template, module.in_features, module.out_features)
        n_layers = max((len(layers) for layers in found.values()), default=0)
        shapes = []
        for name in sorted(found):
            kinds = set(found[name].values())
            if len(kinds) != 1 or sorted(found[name]) != list(range(n_layers)):
                raise CheckpointMismatch(
                    f"{base_model}: target module {name!r} is not one linear module of the same "
                    f"shape in each decoder layer; choose other target modules"
                )
            template, d_in, d_out = kinds.pop()
            shapes.append(ModuleShape(name, template, d_in, d_out))
        return cls(base_model, base_fingerprint, n_layers, tuple(shapes), rank)

    @property
    def scaling(self) -> float:
        """The factor on lora_B @ lora_A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def lora_config(self) -> dict[str, object]:
        """What changes how the tensors act, as PEFT names it; part of the adapter id."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "target_modules": [module.name for module in self.modules],
        }

    def tensor_names(self) -> Iterator[tuple[ModuleShape, int, str, str]]:
        """Yield (module, layer, PEFT name of lora_A, PEFT name of lora_B) in a fixed order."""
        for module in self.modules:
            for layer in range(self.n_layers):
                stem = f"base_model.model.{module.path.format(layer=layer)}"
                yield module, layer, f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"

    def same_shapes(self, other: "LoraSpec") -> bool:
        """Whether both describe the same base architecture and target modules."""
        return self.n_layers == other.n_layers and self.modules == other.modules


def _split_layer(path: str) -> tuple[int, str]:
    """Split ``model.layers.3.self_attn.q_proj`` into 3 and the path with ``{layer}``."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal():
            return int(part), ".".join([*parts[:i], "{layer}", *parts[i + 1 :]])
    return -1, path
