"""Rows that come and go: each must get the logits that it gets alone."""

import random

import pytest
import torch

from t2l_router.engines.batch import Batch, Row
from t2l_router.engines.graphs import DecodeGraphs
from t2l_router.engines.kv import KvBank
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec
from t2l_router.models import load_base
from tests.specs import adapter

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
N_ROWS = 6


def make_batch(base, **options):
    """A batch with two adapters, and the same model without any engine around it."""
    model, _ = load_base(base, dtype=torch.float32, device="cpu")
    spec = LoraSpec.from_model(
        model, base_model=base.name, base_fingerprint=base.fingerprint, rank=4
    )
    bank = SlotBank(model, spec, 2)
    for slot in (1, 2):
        bank.insert(slot, adapter(spec, seed=slot, size=0.2))
    kv = KvBank(model, max_rows=N_ROWS, max_length=512, budget_bytes=1 << 24)
    return Batch(model, bank, kv, **options), bank, model


def expected(model, bank, row):
    """Logits after a row's tokens, without a cache."""
    with bank.rows([row.slot]), torch.inference_mode():
        return model(input_ids=torch.tensor([row.ids])).logits[0, -1]


def live(batch, bank, model, *, turns, seed):
    """Let rows join, read, decode and leave in random order, and check some of the logits."""
    dice = random.Random(seed)
    checked = 0
    for _ in range(turns):
        if len(batch.rows) < N_ROWS and dice.random() < 0.4:
            n = dice.choice([1, 2, 9, 40, 150])
            ids = [dice.randrange(250) for _ in range(n)]
            batch.join(Row(dice.randrange(3), ids, n + 40))
        batch.settle()
        batch.read(batch.unread)
        ready = list(batch.ready)
        if ready:
            logits = batch.decode()
            at = dice.randrange(len(ready))
            if dice.random() < 0.3:
                want = expected(model, bank, ready[at])
                torch.testing.assert_close(logits[at], want, **TOLERANCE)
                checked += 1
            for row, token in zip(ready, logits.argmax(-1).tolist(), strict=True):
                batch.advance(row, token)
        for row in list(batch.rows):
            if len(row.ids) >= row.capacity or dice.random() < 0.03:
                batch.leave(row)
    return checked


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
@pytest.mark.parametrize("read_together", [1, 3])
def test_rows_that_come_and_go(request, fixture, read_together):
    """Whatever else joins and leaves, a row's logits are those of its tokens and its adapter."""
    batch, bank, model = make_batch(request.getfixturevalue(fixture), read_together=read_together)

    assert live(batch, bank, model, turns=120, seed=read_together) > 15


def test_graphed_steps(tiny_base, monkeypatch):
    """The step that CUDA graphs capture, with rows filled up, gives the same logits."""

    def uncaptured(self, ids, positions, *, longest, max_length, places):
        assert longest <= max_length
        return self._forward(ids[:, None], positions[:, None], longest)

    monkeypatch.setattr(DecodeGraphs, "run", uncaptured)
    batch, bank, model = make_batch(tiny_base, use_graphs=True)

    assert live(batch, bank, model, turns=120, seed=5) > 15


def test_a_row_leaves_nothing_behind(tiny_base):
    """Numbers of a row that has left, finite or not, are gone from the bank."""
    batch, _, _ = make_batch(tiny_base)
    row = Row(1, list(range(40)), 60)
    batch.join(row)
    batch.read(batch.unread)
    with torch.inference_mode():
        for keys, values in batch.kv._layers:
            keys[0, :, :39] = values[0, :, :39] = float("nan")

    batch.leave(row)

    assert all(not t.any() for layer in batch.kv._layers for t in layer)


def test_model_that_cannot_be_captured(tiny_base, monkeypatch, caplog) -> None:
    """The batch goes on without graphs, and says so once."""

    def refuse(self, *_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(DecodeGraphs, "run", refuse)
    batch, bank, model = make_batch(tiny_base, use_graphs=True)

    assert live(batch, bank, model, turns=30, seed=3)
    assert len([r for r in caplog.records if "no CUDA graphs" in r.message]) == 1
