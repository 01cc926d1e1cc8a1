"""Oracle LoRAs: many adapters trained side by side, each as if it were alone."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from t2l_router.errors import ConfigError
from t2l_router.lora import LoraSpec
from tests.training.packs import new_trainer
from training import sft
from training.data import Batch
from training.oracle_file import Oracles
from training.oracles import OracleTrainer, RowAdamW, TaskAdapters
from training.views import one_hot


def oracle_trainer(tiny_base, pack, **changes) -> OracleTrainer:
    return new_trainer(
        tiny_base,
        one_hot(pack),
        source=lambda spec: TaskAdapters(spec, 3),
        trainer=OracleTrainer,
        **changes,
    )


def test_one_hot_rows_pick_their_task(tiny_base, pack) -> None:
    """A batch row's embedding names the task whose examples the row holds."""
    trainer = oracle_trainer(tiny_base, pack)
    batch = trainer._sampler.batch(3)

    names = batch.embeddings.argmax(-1).tolist()
    for row, task in enumerate(names):
        first = batch.input_ids[row, : int((batch.position_ids[row] == 0).nonzero()[1])].tolist()
        owners = {
            int(pack.tasks[i])
            for i in range(len(pack.tasks))
            if pack.tokens[pack.starts[i] : pack.starts[i + 1]].tolist() == first
        }
        assert task in owners
    assert sorted(names) == [0, 1, 2]


def test_rows_train_as_if_alone() -> None:
    """Each row follows torch's AdamW on its own loss, at its own pace, whatever else trains."""
    torch.manual_seed(0)
    start = torch.randn(3, 4, 5)
    targets = torch.randn(3, 4, 5)
    table = nn.Parameter(start.clone())
    ours = RowAdamW([table], lr=0.1, weight_decay=0.1, clip=1.0)
    alone = [nn.Parameter(row.clone()) for row in start]
    theirs = [torch.optim.AdamW([row], lr=0.1, weight_decay=0.1) for row in alone]

    visits = [[0, 1], [1], [1, 2, 1], [0], [2, 2]]
    for tasks in visits:
        table.grad = None
        rows = torch.tensor(tasks)
        loss = ((table[rows] - targets[rows]) ** 2).sum((1, 2)).mean()
        loss.backward()
        distinct, counts = rows.unique(return_counts=True)
        ours.step_rows(distinct, counts / len(rows))
        for task in set(tasks):
            alone[task].grad = None
            ((alone[task] - targets[task]) ** 2).sum().backward()
            nn.utils.clip_grad_norm_([alone[task]], 1.0)
            theirs[task].step()

    for row, single in zip(table, alone, strict=True):
        torch.testing.assert_close(row, single, rtol=1e-4, atol=1e-5)


def test_tasks_that_are_not_drawn_keep_still(tiny_base, pack) -> None:
    """A step moves the adapters of its own tasks only."""
    trainer = oracle_trainer(tiny_base, pack, tasks_per_step=1)
    before = {name: p.detach().clone() for name, p in trainer.source.named_parameters()}
    drawn = {int(trainer._sampler.batch(step).embeddings.argmax()) for step in (0, 1)}
    assert len(drawn) < 3

    trainer.run(until=2)

    for task in range(3):
        moved = any(
            not torch.equal(p[task], before[name][task])
            for name, p in trainer.source.named_parameters()
        )
        assert moved == (task in drawn)


def test_oracles_start_equal_and_as_no_op(tiny_base, pack) -> None:
    """All adapters share one start, and B = 0."""
    source = oracle_trainer(tiny_base, pack).source
    for a in source.lora_A.values():
        assert torch.equal(a[0], a[2])
        assert a.any()
    assert not any(b.any() for b in source.lora_B.values())


def test_oracle_runs_resume_bit_equal(tiny_base, pack, tmp_path) -> None:
    """A run that stopped, was saved and resumed ends in the very same adapters."""
    whole = oracle_trainer(tiny_base, pack, tasks_per_step=2)
    whole.run()
    part = oracle_trainer(tiny_base, pack, tasks_per_step=2)
    part.run(until=5)
    part.save_state(tmp_path / "state")
    resumed = oracle_trainer(tiny_base, pack, tasks_per_step=2)
    resumed.load_state(tmp_path / "state")
    resumed.run()

    for name, parameter in whole.source.named_parameters():
        assert torch.equal(parameter, dict(resumed.source.named_parameters())[name]), name


def test_sft_writes_one_file_of_all_oracles(tiny_base, pack, tmp_path) -> None:
    """The command trains all tasks' adapters; each one lowers its own task's loss."""
    pack.save(tmp_path / "pack")
    sft.main(
        ["--system", "oracles", "--pack", str(tmp_path / "pack"), "--base", str(tiny_base.path),
         "--out", str(tmp_path / "run"), "--device", "cpu", "--steps", "40", "--rank", "4",
         "--tasks-per-step", "3", "--row-tokens", "256", "--lr", "1e-2", "--ema", "0.5",
         "--targets", "down_proj,o_proj,up_proj", "--dropout", "0"]
    )  # fmt: skip

    oracles = Oracles.load(tmp_path / "run" / "oracles.safetensors")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(oracles.tasks) == pack.facts["tasks"]
    assert metrics["run"]["tasks"] == 3
    losses = metrics["metrics"]["history"]
    trainer = new_trainer(
        tiny_base, one_hot(pack), source=lambda spec: TaskAdapters(spec, 3),
        targets=("down_proj", "o_proj", "up_proj"), trainer=OracleTrainer, dropout=0.0,
    )  # fmt: skip
    batch = trainer._sampler.batch(999)
    before = _losses(trainer, batch)
    with torch.no_grad():
        for name, parameter in trainer.source.named_parameters():
            side, module = name.split(".")
            parameter.copy_(getattr(oracles, side)[module].float())
    after = _losses(trainer, batch)
    assert losses
    assert (after < before - 0.02).all()
    # Each adapter serves its own task best, on the whole.
    wrong = _losses(trainer, batch, shift=1)
    assert after.sum() < wrong.sum()


def _losses(trainer: OracleTrainer, batch: Batch, *, shift: int = 0) -> torch.Tensor:
    """Each row's loss."""
    with torch.no_grad():
        pairs = trainer.source(batch.embeddings.roll(shift, 0))
        logits = trainer.base.eval()(pairs, batch.input_ids, batch.position_ids, batch.label_at)
        losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        rows = torch.div(batch.label_at, batch.input_ids.shape[1], rounding_mode="floor")
        return torch.zeros(len(batch.embeddings)).index_add(0, rows, losses * batch.weights * 3)


def test_oracle_file_round_trip(tmp_path) -> None:
    """Names, shapes, tensors and descriptions come back; the nearest description names a task."""
    spec = LoraSpec.from_model(
        nn.ModuleDict({"0": nn.ModuleDict({"q_proj": nn.Linear(4, 6)})}),
        base_model="tiny", base_fingerprint="f", targets=["q_proj"], rank=2,
    )  # fmt: skip
    a = {"q_proj": torch.randn(3, 1, 2, 4).bfloat16()}
    b = {"q_proj": torch.randn(3, 1, 6, 2).bfloat16()}
    owners = torch.tensor([2, 0, 1, 1])
    Oracles(spec, ["x", "y", "z"], a, b, torch.eye(4), owners).save(tmp_path / "o")

    back = Oracles.load(tmp_path / "o")

    assert back.spec == spec
    assert torch.equal(back.weights("z").lora_A["q_proj"], a["q_proj"][2])
    assert back.nearest(np.eye(4, dtype=np.float32)) == ["z", "x", "y", "y"]
    with pytest.raises(KeyError, match="nobody"):
        back.weights("nobody")
    with pytest.raises(ConfigError, match="same encoder"):
        back.nearest(np.eye(5, dtype=np.float32))


def test_other_files_are_no_oracles(tmp_path) -> None:
    """A wrong path says how such a file is made."""
    np.save(tmp_path / "o.npy", np.zeros(3))
    for path in (tmp_path / "o.npy", tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="--system oracles"):
            Oracles.load(path)
