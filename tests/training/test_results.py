"""docs/results.md: what is computed for it, and that it is up to date."""

import json
from pathlib import Path

import numpy as np
import pytest

from training import results
from training.compare import ratio
from training.results_evaluations import is_point

ROOT = Path(__file__).parents[2]


def document(scores: dict[str, list[float]], **setup: object) -> dict:
    metrics = {
        system: {
            "rouge_l": sum(values) / len(values),
            "exact_match": 0.0,
            "score": sum(values) / len(values),
            "n_tasks": len(values),
            "per_task": {
                f"t{i}": {"rouge_l": v, "exact_match": 0.0, "score": v}
                for i, v in enumerate(values)
            },
        }
        for system, values in scores.items()
    }
    facts = {
        "split": "validation",
        "base_model": "m",
        "hypernet_id": "h",
        "limit": 5,
        "device": "cpu",
    }
    return {"run": {"command": "python -m x"}, "setup": facts | setup, "metrics": metrics}


def test_results_are_up_to_date(tmp_path) -> None:
    """`python -m training.results` has been run since a result changed."""
    written = results.write(ROOT / "tests" / "bench" / "results", tmp_path)
    assert (ROOT / "docs" / "results.md").read_text() == written


def test_share_of_the_oracles_gain(tmp_path) -> None:
    """The share is of means, over the tasks that have an oracle."""
    scores = {"base": [0, 10, 5], "t2l": [20, 40, 5], "oracle": [40, 70]}
    (tmp_path / "evaluate-x--cpu.json").write_text(json.dumps(document(scores)))

    text = results.write(tmp_path, tmp_path)

    assert "t2l has 50 % (50 to 50) of the oracle LoRAs' gain over base" in text
    assert "55 % " in text
    assert "over the 2 tasks" in text
    assert "| base | 5.0 (0.0 to 10.0) | 0.0 | 5.0 | +16.7 (+0.0 to +30.0) | 3 |" in text


def test_labelled_evaluations_become_a_curve(tmp_path) -> None:
    """Points are ordered by their number and drawn; they get no section of their own."""
    for number, score in ((256, 20.0), (64, 10.0)):
        one = document({"t2l": [score, score]}, label=f"tasks={number}")
        (tmp_path / f"evaluate-{number}--cpu.json").write_text(json.dumps(one))

    text = results.write(tmp_path, tmp_path)

    rows = [line for line in text.splitlines() if line.startswith("| validation")]
    assert rows == [
        "| validation | 64 | 10.0 (10.0 to 10.0) |  |",
        "| validation | 256 | 20.0 (20.0 to 20.0) |  |",
    ]
    assert "### validation" not in text
    assert (tmp_path / "scaling-tasks.png").stat().st_size > 1_000


def test_reconstruction_table(tmp_path) -> None:
    """Runs without held-out descriptions show a dash for them."""
    run = {
        "run": {"command": "python -m training.recon", "parameters": 1000, "seconds": 61.0},
        "setup": {"variant": "L", "embeddings": "one-hot", "space": "z-score", "tasks": 9},
        "metrics": {"seen": {"delta_w": 0.05, "z_score_l1": 0.1}},
    }
    (tmp_path / "recon-L--cpu.json").write_text(json.dumps(run))

    text = results.write(tmp_path, tmp_path)

    assert "| L | one-hot | z-score | 9 | 1,000 | 0.050 / - | 0.100 / - | 61 |" in text


def test_ratio_of_nothing() -> None:
    """A share of no gain is no number."""
    assert "no share" in ratio(np.array([1.0]), np.array([0.0]))
    assert ratio(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == "50 % (50 to 50)"


@pytest.mark.parametrize("text", ["", "tasks", "run 3"])
def test_other_labels_are_no_curve(text: str) -> None:
    """Free text is a heading's suffix."""
    assert not is_point({"setup": {"label": text}})


def test_speed_is_stated_with_its_share_of_the_peak() -> None:
    """By the count that the run recorded; runs and devices without one show what is known."""
    run = {"tokens_per_s": 500_000, "flop_per_token": 4 * 100_000_000, "device": "NVIDIA H100 80GB"}
    assert results._speed(run) == "200 (20 %)"
    assert results._speed(run | {"device": "cpu"}) == "200.0"
    assert results._speed({"device": "cpu", "tokens_per_s": 1}) == "-"


def test_benchmarks_share_a_table(tmp_path) -> None:
    """Systems of several evaluations stand in one table, beside the share of the oracle's mean."""
    first = document({"base": [10, 30], "oracle": [40, 60]}, split="benchmark", templates="paper")
    second = document({"t2l": [40, 50]}, split="benchmark", templates="paper", label="variant=M")
    for name, one in (("a", first), ("b", second)):
        (tmp_path / f"benchmark-{name}--cpu.json").write_text(json.dumps(one))

    text = results.write(tmp_path, tmp_path)

    assert (
        "| base | 10.0 | 30.0 | 20.0 (10.0 to 30.0) | 40 % (25 to 50) | 20.0 | 40 % (25 to 50) |"
        in text
    )
    assert "| t2l, variant=M | 40.0 | 50.0 | 45.0 (40.0 to 50.0) | 90 % (83 to 100) |" in text
    assert "### benchmark" not in text
    assert "## Scaling" not in text


def test_oracles_trained_once_more_stand_beside_the_first(tmp_path) -> None:
    """A reconstruction is a share of the oracles that it was trained on."""
    shape = {"split": "benchmark", "templates": "paper"}
    first = document({"oracle": [40, 60], "t2l": [20, 30]}, **shape, label="recon-L")
    second = document({"oracle": [20, 30], "t2l": [20, 30]}, **shape, label="recon-S")
    for name, one in (("L", first), ("S", second)):
        (tmp_path / f"benchmark-recon-{name}--cpu.json").write_text(json.dumps(one))

    text = results.write(tmp_path, tmp_path)

    assert "| t2l, recon-L | 20.0 | 30.0 | 25.0 (20.0 to 30.0) | 50 % (50 to 50) |" in text
    assert "| t2l, recon-S | 20.0 | 30.0 | 25.0 (20.0 to 30.0) | 100 % (100 to 100) |" in text
    assert "| oracle, recon-S | 20.0 | 30.0 | 25.0 (20.0 to 30.0) |  |" in text


def test_one_evaluation_is_a_point_of_several_tables(tmp_path) -> None:
    """A label with commas names its number of tasks and its variant."""
    one = document({"t2l": [10.0], "t2l-shuffled": [4.0]}, label="tasks=588,variant=L")
    (tmp_path / "x--cpu.json").write_text(json.dumps(one))

    text = results.write(tmp_path, tmp_path)

    assert "| validation | 588 | 10.0 (10.0 to 10.0) | +6.0 (+6.0 to +6.0) |" in text
    assert "| validation | L | 10.0 (10.0 to 10.0) | +6.0 (+6.0 to +6.0) |" in text
    assert not (tmp_path / "scaling-variant.png").exists()
