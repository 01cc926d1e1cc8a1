import subprocess
import sys

import pytest
import torch

from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec, ModuleShape
from tests.specs import config

MISTRAL = LoraSpec(
    "mistral-7b",
    "",
    32,
    (
        ModuleShape("q_proj", "model.layers.{layer}.self_attn.q_proj", 4096, 4096),
        ModuleShape("v_proj", "model.layers.{layer}.self_attn.v_proj", 4096, 1024),
    ),
)


@pytest.mark.parametrize(
    ("variant", "published"), [("L", 55_252_992), ("M", 34_282_240), ("S", 4_923_392)]
)
def test_parameter_counts_are_the_papers(variant: str, published: int) -> None:
    """With one-hot embeddings of 16 tasks, the counts of the paper's appendix B come out."""
    with torch.device("meta"):
        hypernet = Hypernet(HypernetConfig(MISTRAL, 16, "one-hot", "", variant, output="zscore"))

    assert sum(p.numel() for p in hypernet.parameters()) == published


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_untrained_adapter_changes_nothing(variant: str) -> None:
    """Before training delta-W is exactly 0, and lora_A is random within 1/sqrt(d_in)."""
    pairs = Hypernet(config(variant))(torch.randn(3, 24))

    for name, (a, b) in pairs.items():
        assert torch.count_nonzero(b @ a) == 0, name
        assert 0.9 / 32**0.5 < a.abs().max() <= 1 / 32**0.5


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_training_can_start_from_the_no_op(variant: str) -> None:
    """The head of lora_B gets a gradient although delta-W is 0."""
    hypernet = Hypernet(config(variant))

    pairs = hypernet(torch.randn(3, 24))
    sum((b @ a).sum() for a, b in pairs.values()).backward()

    assert hypernet.heads["q_proj"].weight.grad.abs().max() > 0


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_shapes_and_batches(variant: str) -> None:
    """A batch of tasks gives each task what it gets alone, also where d_out exceeds d_in."""
    torch.manual_seed(0)
    hypernet = Hypernet(config(variant)).eval()
    for head in hypernet.heads.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    task = torch.randn(3, 24)

    together = hypernet(task)

    assert together["q_proj"].lora_A.shape == (3, 2, 4, 32)
    assert together["q_proj"].lora_B.shape == (3, 2, 64, 4)
    assert together["v_proj"].lora_B.shape == (3, 2, 16, 4)
    for i in range(3):
        alone = hypernet(task[i : i + 1])
        for name in together:
            torch.testing.assert_close(together[name].lora_A[i], alone[name].lora_A[0])
            torch.testing.assert_close(together[name].lora_B[i], alone[name].lora_B[0])
    assert not torch.allclose(together["q_proj"].lora_A[0], together["q_proj"].lora_A[1])


def test_zscore_output_undoes_the_normalisation() -> None:
    """Mean and spread of target LoRAs are data: applied, saved, not trained."""
    hypernet = Hypernet(config(output="zscore")).eval()
    torch.nn.init.zeros_(hypernet.heads["q_proj"].weight)
    hypernet.affine_B["q_proj"].mean.fill_(3.0)

    assert torch.all(hypernet(torch.randn(1, 24))["q_proj"].lora_B == 3.0)
    assert "affine_B.q_proj.mean" in hypernet.state_dict()
    assert "affine_B.q_proj.mean" not in dict(hypernet.named_parameters())


def test_module_order_does_not_depend_on_the_hash_seed() -> None:
    """Targets given as a set come out in the same order in every process."""
    program = (
        "from transformers import LlamaConfig\n"
        "from t2l_router.lora import LoraSpec\n"
        "config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64,"
        " num_hidden_layers=2, num_attention_heads=4)\n"
        "targets = {'v_proj', 'q_proj', 'o_proj', 'k_proj'}\n"
        "spec = LoraSpec.from_config(config, base_model='x', base_fingerprint='y',"
        " targets=targets)\n"
        "print([module.name for module in spec.modules])\n"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(3)
    }

    assert orders == {"['k_proj', 'o_proj', 'q_proj', 'v_proj']\n"}
