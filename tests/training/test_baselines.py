"""Baselines, and hypernetworks that start from one."""

import dataclasses

import pytest
import torch

from t2l_router.errors import ConfigError
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec
from tests.training.packs import new_trainer
from training.baselines import SharedAdapter, start_from


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_a_hypernetwork_starts_from_an_adapter(tiny_base, pack, variant) -> None:
    """It writes that adapter for every description, and learns to write others."""
    shared = new_trainer(tiny_base, pack, source=SharedAdapter).source
    for tensor in shared.lora_B.values():
        torch.nn.init.normal_(tensor, std=0.1)
    adapter = shared.weights()

    def new(spec: LoraSpec) -> Hypernet:
        hypernet = Hypernet(HypernetConfig(spec, 24, "w", "w", variant=variant))
        start_from(hypernet, adapter)
        return hypernet

    trainer = new_trainer(tiny_base, pack, source=new, dropout=0.0)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 24), dim=1)
    with torch.no_grad():
        pairs = trainer.source.eval()(embeddings)
    for name, pair in pairs.items():
        for row in range(3):
            torch.testing.assert_close(pair.lora_A[row], adapter.lora_A[name].float())
            torch.testing.assert_close(pair.lora_B[row], adapter.lora_B[name].float())

    trainer.run(until=2)

    with torch.no_grad():
        changed = trainer.source.eval()(embeddings)
    assert not torch.equal(changed["q_proj"].lora_B[0], changed["q_proj"].lora_B[1])


def test_an_adapter_of_another_rank_is_refused(tiny_base, pack) -> None:
    """The error names its rank and says how to get one that fits."""
    trainer = new_trainer(tiny_base, pack, source=SharedAdapter)
    adapter = trainer.source.weights()
    wider = dataclasses.replace(trainer.base.spec, rank=8)

    with pytest.raises(ConfigError, match="has rank 4"):
        start_from(Hypernet(HypernetConfig(wider, 24, "w", "w")), adapter)
