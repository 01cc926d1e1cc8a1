"""Reconstruction: losses, held-out descriptions, and a run that reproduces its targets."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from t2l_router import checkpoint
from t2l_router.generator import AdapterGenerator
from t2l_router.hypernet import LoraPair
from tests.specs import adapter, spec
from training import recon
from training.oracle_file import Oracles
from training.recon_data import Descriptions
from training.recon_loss import Targets

N = 4


@pytest.fixture(scope="module")
def oracles() -> Oracles:
    """Four unlike adapters with eight descriptions each, near their task's own direction."""
    shapes = spec()
    adapters = [adapter(shapes, seed) for seed in range(N)]
    names = [module.name for module in shapes.modules]
    torch.manual_seed(0)
    centres = torch.randn(N, 1, 24)
    rows = torch.nn.functional.normalize((centres + 0.1 * torch.randn(N, 8, 24)).flatten(0, 1))
    return Oracles(
        shapes,
        ["a", "b", "c", "d"],
        {n: torch.stack([w.lora_A[n] for w in adapters]) for n in names},
        {n: torch.stack([w.lora_B[n] for w in adapters]) for n in names},
        rows,
        torch.arange(N).repeat_interleave(8),
        "words",
        "words-1",
    )


def pairs_of(oracles: Oracles, rows) -> dict[str, LoraPair]:
    return {
        name: LoraPair(oracles.lora_A[name][rows].float(), oracles.lora_B[name][rows].float())
        for name in oracles.lora_A
    }


def test_losses_are_zero_at_the_target_and_count_deviations(oracles) -> None:
    """A standard deviation off everywhere costs 1 in z-scores; no adapter costs 1 in delta-W."""
    rows = torch.tensor([2, 0])
    exact = pairs_of(oracles, rows)
    by_score, by_delta = Targets(oracles, space="z-score"), Targets(oracles, space="delta-w")
    off = {
        name: LoraPair(
            pair.lora_A + by_score.stats_a(name)[1], pair.lora_B - by_score.stats_b(name)[1]
        )
        for name, pair in exact.items()
    }
    none = {name: LoraPair(p.lora_A, torch.zeros_like(p.lora_B)) for name, p in exact.items()}

    assert by_score(exact, rows) == 0
    assert by_score(off, rows).item() == pytest.approx(1, rel=1e-4)
    assert by_delta(exact, rows) == 0
    assert by_delta(none, rows).item() == pytest.approx(1, rel=1e-4)
    assert by_score(exact, torch.tensor([1, 3])) > 0.5


def test_rotated_pairs_differ_in_entries_but_not_in_delta_w(oracles) -> None:
    """A rotation of the rank axis is invisible in delta-W, which is why that space exists."""
    rows = torch.arange(N)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    turned = {
        name: LoraPair(turn @ pair.lora_A, pair.lora_B @ turn.T)
        for name, pair in pairs_of(oracles, rows).items()
    }

    assert Targets(oracles, space="delta-w")(turned, rows) < 1e-5
    assert Targets(oracles, space="z-score")(turned, rows) > 0.5
    errors = Targets(oracles, space="z-score").errors(turned, rows)
    assert errors["delta_w"].max() < 1e-2
    assert errors["z_score_l1"].min() > 0.5


def test_errors_agree_with_full_matrices(oracles) -> None:
    """The relative error through R x R products is that of the matrices themselves."""
    rows, others = torch.tensor([0]), torch.tensor([1])
    found = Targets(oracles, space="z-score").errors(pairs_of(oracles, others), rows)

    apart = size = 0.0
    for name in oracles.lora_A:
        mine, theirs = (
            oracles.lora_B[name][i].float() @ oracles.lora_A[name][i].float() for i in (1, 0)
        )
        apart += (mine - theirs).square().sum()
        size += theirs.square().sum()
    assert found["delta_w"].item() == pytest.approx((apart / size).sqrt().item(), rel=1e-4)


def test_untrained_oracles_have_no_relative_error(oracles) -> None:
    """A target of zero is left out of the mean instead of making it infinite."""
    b = {name: tensor.clone() for name, tensor in oracles.lora_B.items()}
    for tensor in b.values():
        tensor[2] = 0
    partly = dataclasses.replace(oracles, lora_B=b)
    rows = torch.arange(N)
    found = Targets(partly, space="z-score").errors(pairs_of(oracles, rows), rows)["delta_w"]
    assert found.isnan().tolist() == [False, False, True, False]
    assert found.nanmean() < 1e-2


def test_held_out_descriptions_are_never_drawn(oracles) -> None:
    """Training sees the others only, and all of them."""
    descriptions = Descriptions(oracles, one_hot=False, held_out=3, seed=0)
    unseen = {tuple(row) for row in descriptions.unseen.embeddings.tolist()}
    drawn = {
        tuple(row) for step in range(200) for row in descriptions.draw(step, N).embeddings.tolist()
    }

    assert len(unseen) == 3 * N
    assert len(drawn) == 5 * N
    assert not unseen & drawn
    batch = descriptions.draw(7, 3)
    assert len(set(batch.rows.tolist())) == 3
    assert torch.equal(batch.embeddings, descriptions.draw(7, 3).embeddings)


@pytest.mark.parametrize(
    ("embeddings", "space", "variant"),
    [
        ("one-hot", "z-score", "L"),
        pytest.param("descriptions", "z-score", "M", marks=pytest.mark.slow),
        pytest.param("one-hot", "delta-w", "S", marks=pytest.mark.slow),
    ],
)
def test_a_run_reproduces_its_targets(oracles, tmp_path, embeddings, space, variant) -> None:
    """The checkpoint writes each task's own adapter, from descriptions it hasn't seen too."""
    oracles.save(tmp_path / "oracles")
    recon.main(
        ["--oracles", str(tmp_path / "oracles"), "--out", str(tmp_path / "run"), "--steps", "300",
         "--lr", "3e-3", "--embeddings", embeddings, "--space", space, "--variant", variant,
         "--device", "cpu"]
    )  # fmt: skip

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    config = checkpoint.from_pretrained(tmp_path / "run" / "checkpoint").config
    generator = AdapterGenerator.load(tmp_path / "run" / "checkpoint", base=config.lora)
    one_hot = embeddings == "one-hot"
    rows = np.eye(N, dtype=np.float32) if one_hot else oracles.embeddings[::8].numpy()
    written = generator.generate(rows)
    for task, weights in zip(oracles.tasks, written, strict=True):
        target = oracles.weights(task)
        assert weights.delta_distance(target) < 0.35
        others = [oracles.weights(t) for t in oracles.tasks if t != task]
        assert min(weights.delta_distance(other) for other in others) > 1
    assert metrics["seen"]["delta_w"] < 0.35
    assert ("unseen" in metrics) == (not one_hot)
    if not one_hot:
        assert metrics["unseen"]["delta_w"] < 0.4
        assert (config.encoder, config.encoder_fingerprint) == ("words", "words-1")


def test_recon_resumes(oracles, tmp_path) -> None:
    """A run that was stopped ends with the same errors as one that wasn't."""
    oracles.save(tmp_path / "oracles")
    descriptions = Descriptions(oracles, one_hot=True, held_out=0, seed=0)
    targets = Targets(oracles, space="z-score")

    def new() -> recon.ReconTrainer:
        torch.manual_seed(0)
        net = recon.new_hypernet(oracles, targets, descriptions, "L")
        recipe = recon.Recipe(steps=20, tasks_per_step=3, noise=0.0)
        return recon.ReconTrainer(targets, net, descriptions, recipe)

    whole = new()
    whole.run()
    part = new()
    part.run(until=9)
    part.save_state(tmp_path / "state")
    rest = new()
    rest.load_state(tmp_path / "state")
    rest.run()
    batch = descriptions.first()
    assert rest.errors(batch) == whole.errors(batch)


def test_recon_explains_what_is_missing(oracles, tmp_path) -> None:
    """No description embeddings, or a single oracle: one line that says so."""
    bare = dataclasses.replace(
        oracles, embeddings=torch.empty(0, 0), embedding_tasks=torch.empty(0, dtype=torch.long)
    )
    bare.save(tmp_path / "bare")
    run = ["--oracles", str(tmp_path / "bare"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(SystemExit, match="--embeddings one-hot"):
        recon.main(run)
    one = (
        {n: t[:1] for n, t in oracles.lora_A.items()},
        {n: t[:1] for n, t in oracles.lora_B.items()},
    )
    dataclasses.replace(bare, tasks=["a"], lora_A=one[0], lora_B=one[1]).save(tmp_path / "bare")
    with pytest.raises(SystemExit, match="2 at least"):
        recon.main(run)
