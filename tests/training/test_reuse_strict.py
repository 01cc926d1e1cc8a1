"""Reuse judged by losses: the file, the scorer and the verdicts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec
from tests.specs import adapter
from training.base import load_frozen
from training.reuse_offers import Offer, Pack, slim
from training.reuse_score import score
from training.reuse_strict import Judgement, compared, cosine, rate

EXAMPLES = (([5, 6, 7, 8], 2), ([9, 8, 7], 1), ([3, 4, 5, 6, 7, 8], 3))
FACTS = {"pad": 0, "asked": {"1 check present": 4}}


def offer(**fields) -> Offer:
    default = Offer("check", 1, "present", 0, False, 0.9, 0.1, False, 0.2, fresh=1, held=0)
    return replace(default, **fields)


def pack(*offers: Offer) -> Pack:
    embeddings = np.eye(4, dtype=np.float32)
    return Pack(embeddings, offers, ((0, 1, 2), (0, 1, 2)), (EXAMPLES, EXAMPLES), FACTS)


class Writer:
    """Another adapter for each embedding."""

    def __init__(self, spec: LoraSpec) -> None:
        self.spec = spec

    def generate(self, embeddings):
        return [adapter(self.spec, int(row.argmax()) + 1, size=1.0) for row in embeddings]


def test_pack_survives_its_file(tmp_path: Path) -> None:
    """What is read is what was written, without the rows that nothing refers to."""
    given = slim(pack(offer(), offer(situation="opposite", task=-1)))
    given.save(tmp_path / "pack.safetensors")

    found = Pack.load(tmp_path / "pack.safetensors")

    assert (found.offers, found.wordings, found.examples) == (
        given.offers,
        given.wordings,
        given.examples,
    )
    np.testing.assert_array_equal(found.embeddings, np.eye(4, dtype=np.float32)[:3])


@torch.inference_mode()
def test_score_alone_and_in_a_batch(tiny_base) -> None:
    """Each answer's loss is what its own adapter gives it alone, whatever the batch."""
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    spec = LoraSpec.from_model(model, base_model="t", base_fingerprint="f", rank=4)
    writer = Writer(spec)
    together = score(pack(offer()), model, writer, tokens=1_000)
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    bank = SlotBank(model, spec, 1)
    bank.insert(1, writer.generate(np.eye(4, dtype=np.float32)[2:3])[0])

    expected = []
    for ids, n in EXAMPLES:
        with bank.rows([1]):
            logits = model(torch.tensor([ids])).logits[0, -n - 1 : -1]
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[-n:])).item())

    assert together[1, 2] == pytest.approx(expected, rel=1e-4)
    assert together[1, 2] != pytest.approx(together[1, 0], rel=1e-4)


LOSSES = {
    **{(task, row): [1.0, 2.0, 3.0, 2.0] for task in (0, 1) for row in (1, 2)},
    (1, 0): [1.1, 2.1, 3.1, 2.1],  # another wording of the task to choose on: the noise
    (0, 0): [1.5, 2.6, 3.5, 2.7],  # clearly worse
    (0, 3): [0.0, 9.0, 3.0, 2.0],  # worse by one example alone
}
TUNING = offer(part="choose", task=1)


def test_wrong() -> None:
    """Wrong is what is worse by more than wordings differ, and on the examples alike."""
    judge = Judgement(pack(TUNING), LOSSES)

    assert judge.noise == pytest.approx(0.1)
    assert judge.is_wrong(offer())
    assert not judge.is_wrong(offer(held=3))
    assert not judge.is_wrong(offer(held=2))
    assert not judge.is_wrong(TUNING)
    assert judge.is_wrong(offer(situation="opposite", task=-1, held=2))


def test_rate() -> None:
    """A rule is charged with what it reuses, in all situations."""
    judge = Judgement(pack(TUNING), LOSSES)
    offers = [offer(), offer(held=2, score=0.7), offer(situation="absent", held=2, distance=0.5)]

    plain = rate(offers, cosine(0.8), judge, asked=4)
    near = rate(offers, compared(0.4, 0.3), judge, asked=4)

    assert (plain.hit_rate, plain.reuses, plain.wrong) == (0.25, 2, 1)
    assert (near.hit_rate, near.reuses, near.wrong) == (0.5, 2, 1)
    assert near.excess == pytest.approx(0.575 / 2, abs=0.01)
    contradicted = [offer(is_contradicted=True)]
    assert rate(contradicted, compared(0.4, 0.3), judge, asked=4).reuses == 0
