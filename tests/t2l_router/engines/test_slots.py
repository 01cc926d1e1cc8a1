"""One adapter, three ways to apply it: slot bank, PEFT, merged weights. All must agree."""

import dataclasses

import pytest
import torch
from peft import PeftModel

from t2l_router.engines.slots import SlotBank
from t2l_router.errors import InvalidAdapter
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.models import LocalModel, load_base
from tests.specs import adapter

# float32, sums in another order: logits of size 1 to 20 agree to about 1e-5.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def load(model: LocalModel):
    return load_base(model, dtype=torch.float32, device="cpu")[0]


def spec_of(model: LocalModel, rank: int = 4) -> LoraSpec:
    return LoraSpec.from_model(
        load(model), base_model=model.name, base_fingerprint=model.fingerprint, rank=rank
    )


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def merged(model: LocalModel, weights: LoraWeights):
    """The base model with delta-W added to its weights."""
    base = load(model)
    for module in weights.spec.modules:
        for layer in range(weights.spec.n_layers):
            linear = base.get_submodule(module.path.format(layer=layer))
            a, b = weights.lora_A[module.name][layer], weights.lora_B[module.name][layer]
            linear.weight.data += weights.spec.scaling * b.float() @ a.float()
    return base


def check_agreement(model: LocalModel, tmp_path, *, size: float) -> None:
    weights = adapter(spec_of(model), size=size)
    ids = torch.randint(0, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    base = load(model)
    bank = SlotBank(base, spec_of(model), n_slots=2)
    bank.insert(2, weights)
    weights.save_peft(tmp_path / "adapter")

    with bank.rows([2, 2]):
        by_slot = logits(base, ids)
    by_peft = logits(PeftModel.from_pretrained(load(model), tmp_path / "adapter"), ids)
    by_merge = logits(merged(model, weights), ids)
    without = logits(load(model), ids)

    torch.testing.assert_close(by_slot, by_peft, **TOLERANCE)
    torch.testing.assert_close(by_slot, by_merge, **TOLERANCE)
    assert (by_slot - without).abs().max() > 0.01, "the adapter does nothing"
    assert torch.equal(logits(base, ids), without), "outside rows() it is the base model"


def test_slot_equals_peft_equals_merged(tiny_base: LocalModel, tmp_path) -> None:
    """On a Llama with narrow keys and values."""
    check_agreement(tiny_base, tmp_path, size=0.2)


def test_scale_is_not_rounded(tiny_base: LocalModel) -> None:
    """A slot holds the product of scale and weights, not the nearest that fits the file's form."""
    shape = spec_of(tiny_base, rank=8)  # scale 16 / sqrt 8: no power of two
    weights = adapter(shape)
    bank = SlotBank(load(tiny_base), shape, n_slots=1)
    bank.insert(1, weights)

    for module in shape.modules:
        lora_b = weights.lora_B[module.name]
        assert lora_b.dtype == torch.bfloat16
        held = bank._slots[module.name][1][:, 1]
        torch.testing.assert_close(held, shape.scaling * lora_b.float(), rtol=1e-6, atol=0)


def test_slot_equals_peft_equals_merged_on_gemma(tiny_gemma: LocalModel, tmp_path) -> None:
    """On a Gemma whose queries are wider than its hidden state."""
    check_agreement(tiny_gemma, tmp_path, size=0.2)


@pytest.mark.real
def test_slot_equals_peft_equals_merged_on_smollm2(smollm2: LocalModel, tmp_path) -> None:
    """On the real default model."""
    check_agreement(smollm2, tmp_path, size=0.02)


def test_mixed_batch_gives_each_row_what_it_gets_alone(tiny_base: LocalModel) -> None:
    """Rows of a batch with different adapters don't see one another, nor do base rows."""
    base = load(tiny_base)
    bank = SlotBank(base, spec_of(tiny_base), n_slots=3)
    for slot in (1, 2, 3):
        bank.insert(slot, adapter(spec_of(tiny_base), seed=slot))
    ids = torch.randint(0, 250, (5, 12), generator=torch.Generator().manual_seed(1))
    slots = [3, 0, 1, 2, 1]

    with bank.rows(slots):
        together = logits(base, ids)

    for row, slot in enumerate(slots):
        with bank.rows([slot]):
            alone = logits(base, ids[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, **TOLERANCE)
    torch.testing.assert_close(together[1], logits(load(tiny_base), ids[1:2])[0], **TOLERANCE)


def test_smaller_rank_and_reuse_leave_nothing_behind(tiny_base: LocalModel) -> None:
    """A slot that held a larger adapter serves a smaller one exactly, and base once cleared."""
    base = load(tiny_base)
    bank = SlotBank(base, spec_of(tiny_base, rank=8), n_slots=1)
    ids = torch.arange(10)[None]
    small = adapter(spec_of(tiny_base, rank=2), seed=5)

    bank.insert(1, small)
    with bank.rows([1]):
        fresh = logits(base, ids)
    bank.insert(1, adapter(spec_of(tiny_base, rank=8), seed=6))
    bank.insert(1, small)
    with bank.rows([1]):
        assert torch.equal(logits(base, ids), fresh)
    bank.clear(1)
    with bank.rows([1]):
        torch.testing.assert_close(logits(base, ids), logits(load(tiny_base), ids), **TOLERANCE)


def test_copies_wait_for_no_other_thread(tiny_base: LocalModel, monkeypatch) -> None:
    """Adapters are copied by the calling thread: another may be late by a tenth of a second."""
    held = adapter(spec_of(tiny_base))
    bank = SlotBank(load(tiny_base), spec_of(tiny_base), n_slots=1)
    threads = []
    copy = torch.Tensor.copy_

    def watched(*args: torch.Tensor) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return copy(*args)

    monkeypatch.setattr(torch.Tensor, "copy_", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bank.insert(1, held)
        bank.seat([1])
    finally:
        torch.set_num_threads(before)

    assert threads == [1] * len(threads)
    assert len(threads) == 4 * len(spec_of(tiny_base).modules)


@pytest.mark.parametrize("change", [{"base_fingerprint": "0" * 64}, {"rank": 8}])
def test_foreign_adapter_is_refused(tiny_base: LocalModel, change: dict) -> None:
    """Another base model or a rank beyond the bank's: refused, the slot keeps what it had."""
    base = load(tiny_base)
    bank = SlotBank(base, spec_of(tiny_base), n_slots=1)
    held = adapter(spec_of(tiny_base))
    bank.insert(1, held)
    foreign = adapter(dataclasses.replace(spec_of(tiny_base), **change))

    with pytest.raises(InvalidAdapter, match="doesn't fit"):
        bank.insert(1, foreign)
    with bank.rows([1]):
        assert not torch.equal(
            logits(base, torch.arange(9)[None]), logits(load(tiny_base), torch.arange(9)[None])
        )
