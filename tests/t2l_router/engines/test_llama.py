"""The lean forward pass must be the model's own, for every shape of model that it takes."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from t2l_router.engines import attention
from t2l_router.engines.forward import TransformersForward, forward_of
from t2l_router.engines.kv import KvBank
from t2l_router.engines.llama import LlamaForward
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec
from tests.specs import adapter

SIZES = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, rms_norm_eps=1e-3),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama with scaled positions": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
}


def random_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # norms of ones and biases of zeros would hide faults
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@torch.inference_mode()
def logits(forward, bank) -> torch.Tensor:
    """Of a piece of two prompts, and of a token after it."""
    bank.reserve(2, 24, live=0)
    ids = torch.arange(40).reshape(2, 20)
    at = torch.arange(20).expand(2, 20)
    mask = torch.arange(12) <= at[:, None, :12, None]
    forward.read(ids[:, :12], at[:, :12], mask, bank.window(0, at[:, :12], 12))
    mask = torch.ones(2, 1, 1, 13, dtype=torch.bool)
    return forward.decode(ids[:, 12:13], at[:, 12:13], mask, bank.window(0, at[:, 12:13], 13))


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str) -> None:
    """With an adapter in one row and none in the other."""
    model = random_model(CONFIGS[name])
    kv = KvBank(model, max_rows=2, max_length=64, budget_bytes=1 << 24)
    spec = LoraSpec.from_model(model, base_model="m", base_fingerprint="0" * 64, rank=4)
    slots = SlotBank(model, spec, 1)
    slots.insert(1, adapter(spec, size=0.2))
    attention.install(model)
    forward = forward_of(model)

    with slots.rows([1, 0]):
        lean, own = logits(forward, kv), logits(TransformersForward(model), kv)

    assert type(forward) is LlamaForward
    torch.testing.assert_close(lean, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=8),
        Qwen2Config(
            **{k: v for k, v in SIZES.items() if k != "head_dim"},
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
        Gemma3TextConfig(**SIZES),
    ],
    ids=["sliding window", "some sliding windows", "gemma"],
)
def test_other_models_run_as_transformers_has_them(config) -> None:
    """What it doesn't know it leaves alone."""
    model = AutoModelForCausalLM.from_config(config).eval()

    assert type(forward_of(model)) is TransformersForward
