"""Adapters go out to PEFT and come in from PEFT, and do the same on both sides."""

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from adapters_store import AdapterStore, StoreConfig, imports, transfer
from t2l_router import storage
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec, LoraWeights

# PEFT asks transformers by a name that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOLERANCE = 1e-4  # float32 logits of a two-layer model; the two sides add in another order
IDS = torch.arange(1, 25).reshape(2, 12)


@pytest.fixture(name="spec")
def _spec(tiny_base):
    return LoraSpec.from_config(
        AutoConfig.from_pretrained(tiny_base.path),
        base_model=str(tiny_base.path),
        base_fingerprint=tiny_base.fingerprint,
        rank=4,
    )


@pytest.fixture(name="store")
def _store(tmp_path):
    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "library")) as store:
        yield store


def base_model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32).eval()


def served_logits(tiny_base, spec, weights):
    """The logits of our own engine's modules with the adapter in a slot."""
    model = base_model(tiny_base)
    bank = SlotBank(model, spec, 1)
    bank.insert(1, weights)
    with torch.no_grad(), bank.rows([1, 1]):
        return model(IDS).logits


def test_export_loads_in_peft(tiny_base, spec, store, tmp_path):
    """An adapter that the library exports gives PEFT the logits that the engine serves."""
    torch.manual_seed(1)
    weights = LoraWeights(
        spec,
        {m.name: torch.randn(spec.n_layers, spec.rank, m.d_in) for m in spec.modules},
        {m.name: torch.randn(spec.n_layers, m.d_out, spec.rank) for m in spec.modules},
    )
    record = store.add(storage.adapter_files(weights), tenant="acme", base=spec.base_fingerprint)
    transfer.write_directory(store.export(record.id, tenant="acme"), tmp_path / "out")

    exported = peft.PeftModel.from_pretrained(base_model(tiny_base), tmp_path / "out").eval()

    assert record.id == weights.adapter_id
    with torch.no_grad():
        logits = exported(IDS).logits
    torch.testing.assert_close(
        logits, served_logits(tiny_base, spec, weights), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_peft_training_imports(tiny_base, spec, store, tmp_path):
    """An adapter that PEFT trained is imported, and the engine serves the logits PEFT gave."""
    torch.manual_seed(2)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"])
    trained = peft.get_peft_model(base_model(tiny_base), config)
    optimiser = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=5.0)
    for _ in range(3):
        optimiser.zero_grad()
        trained(IDS, labels=IDS).loss.backward()
        optimiser.step()
    trained.save_pretrained(tmp_path / "trained")
    trained.eval()

    record = store.add(
        imports.read_path(tmp_path / "trained").files,
        tenant="acme",
        base=spec.base_fingerprint,
        expected_shapes=storage.module_shapes(spec),
    )
    weights = LoraWeights.load_peft(store.directory(record.id, tenant="acme"), spec)

    assert (record.rank, record.alpha, record.rslora) == (3, 6.0, False)
    with torch.no_grad():
        logits = trained(IDS).logits
        assert not torch.allclose(logits, base_model(tiny_base)(IDS).logits, atol=0.01)
    torch.testing.assert_close(
        logits, served_logits(tiny_base, spec, weights), atol=TOLERANCE, rtol=TOLERANCE
    )
