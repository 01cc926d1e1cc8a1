"""Small LoRA shapes and random adapters for tests."""

import torch
from transformers import AutoConfig

from t2l_router.context_hypernet import ContextHypernet
from t2l_router.hypernet import HypernetConfig
from t2l_router.lora import LoraSpec, LoraWeights, ModuleShape
from t2l_router.models import LocalModel
from t2l_router.reader import ReaderConfig


def spec(*, base: str = "tiny", rank: int = 4, n_layers: int = 2) -> LoraSpec:
    """q_proj is wider outside than inside, as Gemma's; v_proj is narrower."""
    modules = (
        ModuleShape("q_proj", "model.layers.{layer}.self_attn.q_proj", 32, 64),
        ModuleShape("v_proj", "model.layers.{layer}.self_attn.v_proj", 32, 16),
    )
    return LoraSpec(base, "f" * 64, n_layers, modules, rank=rank)


def config(variant: str = "L", **changes: object) -> HypernetConfig:
    return HypernetConfig(spec(), 24, "encoder", "e" * 64, variant=variant, **changes)


def reading_hypernet(
    base: LocalModel, *, dim: int = 24, encoder: str = "encoder", fingerprint: str = "e" * 64
) -> ContextHypernet:
    """A hypernetwork for a two-layer base model that reads tokens, with random weights."""
    shapes = AutoConfig.from_pretrained(base.path)
    lora = LoraSpec.from_config(
        shapes,
        base_model=base.name,
        base_fingerprint=base.fingerprint,
        targets=["q_proj", "v_proj"],
        rank=4,
    )
    reader = ReaderConfig((0, 1), shapes.hidden_size, width=32, n_heads=4)
    torch.manual_seed(0)
    hypernet = ContextHypernet(HypernetConfig(lora, dim, encoder, fingerprint, reader=reader))
    for head in hypernet.head_B.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    return hypernet.eval()


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
