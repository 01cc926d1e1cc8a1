"""Small LoRA shapes and random adapters for tests."""

import torch

from t2l_router.hypernet import HypernetConfig
from t2l_router.lora import LoraSpec, LoraWeights, ModuleShape


def spec(*, base: str = "tiny", rank: int = 4, n_layers: int = 2) -> LoraSpec:
    """q_proj is wider outside than inside, as Gemma's; v_proj is narrower."""
    modules = (
        ModuleShape("q_proj", "model.layers.{layer}.self_attn.q_proj", 32, 64),
        ModuleShape("v_proj", "model.layers.{layer}.self_attn.v_proj", 32, 16),
    )
    return LoraSpec(base, "f" * 64, n_layers, modules, rank=rank)


def config(variant: str = "L", **changes: object) -> HypernetConfig:
    return HypernetConfig(spec(), 24, "encoder", "e" * 64, variant=variant, **changes)


def adapter(shape: LoraSpec, seed: int = 0, *, size: float = 0.2) -> LoraWeights:
    """Random tensors of a spec, bf16 as a generator writes them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*dims: int) -> torch.Tensor:
        return (size * torch.randn(*dims, generator=generator)).bfloat16()

    layers, rank = shape.n_layers, shape.rank
    return LoraWeights(
        shape,
        {m.name: draw(layers, rank, m.d_in) for m in shape.modules},
        {m.name: draw(layers, m.d_out, rank) for m in shape.modules},
    )
