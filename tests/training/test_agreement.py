"""Adapters of two descriptions of one task are pulled together."""

import dataclasses

import pytest
import torch

from t2l_router.hypernet import LoraPair
from tests.training.packs import new_trainer
from training.agreement import disagreement
from training.data import Sampler

TOGETHER = {"steps": 60, "warmup": 0.1, "lr": 3e-3, "noise": 0.0, "dropout": 0.0}


def _pairs(n: int) -> dict[str, LoraPair]:
    return {
        name: LoraPair(torch.randn(n, 2, 3, 8), torch.randn(n, 2, width, 3))
        for name, width in (("q_proj", 8), ("v_proj", 4))
    }


def test_disagreement_is_the_share_of_delta_w() -> None:
    """It is what delta-W, formed in full, give."""
    torch.manual_seed(0)
    pairs, twins = _pairs(6), torch.tensor([0, 3])

    def apart(ones, twos) -> torch.Tensor:
        delta = {name: pair.lora_B @ pair.lora_A for name, pair in pairs.items()}
        squares = [(d[ones] - d[twos]).square().sum((1, 2, 3)).mean() for d in delta.values()]
        return torch.stack(squares).sum()

    wanted = apart(twins, torch.tensor([4, 5])) / apart([0, 1, 2, 3], [3, 0, 1, 2])
    assert disagreement(pairs, twins, 4).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_untrained_adapters_agree() -> None:
    """Adapters that change nothing don't differ."""
    nothing = {n: LoraPair(p.lora_A, torch.zeros_like(p.lora_B)) for n, p in _pairs(4).items()}

    assert disagreement(nothing, torch.tensor([1]), 3).item() == 0


def test_twins_describe_the_same_tasks(pack) -> None:
    """They come behind the tasks' own descriptions, and the rows are those of a run without."""
    shape = {"tasks_per_step": 3, "row_tokens": 200}
    plain = Sampler(pack, **shape).batch(2)
    twinned = Sampler(pack, **shape, twins=True).batch(2)

    assert torch.equal(twinned.input_ids, plain.input_ids)
    assert twinned.descriptions[:3] == plain.descriptions
    assert len(twinned.embeddings) == len(twinned.descriptions) == 6
    tasks = pack.embedding_tasks[list(twinned.descriptions)]
    assert tasks[3:].tolist() == tasks[twinned.twins].tolist() == tasks[:3].tolist()


def test_training_with_it_brings_descriptions_together(tiny_base, pack) -> None:
    """After the same steps another wording changes the adapter by less."""

    def trained(agree: float) -> float:
        trainer = new_trainer(tiny_base, pack, agree=agree, **TOGETHER)
        vocabulary = trainer.base.model.config.vocab_size
        draw = trainer._sampler.batch
        trainer._sampler.batch = lambda step: dataclasses.replace(
            (batch := draw(step)),
            input_ids=batch.input_ids % vocabulary,
            labels=batch.labels % vocabulary,
        )
        trainer.run()
        batch = Sampler(pack, tasks_per_step=3, row_tokens=200, twins=True).batch(1000)
        with torch.no_grad():
            return disagreement(trainer.source.eval()(batch.embeddings), batch.twins, 3).item()

    assert trained(1.0) < 0.7 * trained(0.0)
