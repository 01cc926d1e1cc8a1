"""``t2l train`` and ``t2l eval`` on a tiny base model and toy tasks, with the real encoder."""

import json

import pytest
from click.testing import CliRunner

from t2l_router.cli.main import main

WORDS = ["red", "cat", "blue", "dog", "sun", "moon", "tea", "oak"]
RULES = {
    "shout": str.upper,
    "first": lambda text: text.split()[0],
    "count": lambda text: str(len(text.split())),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three tasks in the least form, one of them for validation."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for name, rule in RULES.items():
        line = {
            "task": name,
            "descriptions": [f"You {name}.", f"Please {name} it."],
            "file": f"{name}.jsonl",
        }
        lines.append(line | {"split": "validation"} if name == "count" else line)
        rows = []
        for i in range(30):
            text = " ".join(WORDS[(i * k + k) % 8] for k in range(1, 2 + i % 4))
            rows.append(json.dumps({"input": text, "output": rule(text)}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def run(*args: object):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.real
@pytest.mark.usefixtures("minilm")
def test_train_then_eval(tiny_base, data, tmp_path, model_cache, monkeypatch) -> None:
    """One command makes a checkpoint, the same command again adds nothing, the other scores it."""
    monkeypatch.setenv("T2L_CACHE_DIR", str(model_cache))
    training = (
        "train", "--base", tiny_base.path, "--data", data, "-o", tmp_path / "run", "--device",
        "cpu", "--steps", 4, "--tasks-per-step", 2, "--row-tokens", 128, "--max-tokens", 100,
        "--format", "json",
    )  # fmt: skip

    first = run(*training)
    assert first.exit_code == 0, first.stderr
    checkpoint = json.loads(first.stdout)["checkpoint"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["run"]["steps"] == 4
    assert metrics["run"]["tasks"] == 2
    assert any("validation_loss" in entry for entry in metrics["metrics"]["history"])

    again = run(*training)
    assert again.exit_code == 0, again.stderr
    assert "going on from step 4" in again.stderr

    scored = run(
        "eval", "--data", data, "--hypernet", checkpoint, "--base", tiny_base.path, "--limit", 2,
        "--systems", "base,t2l", "--max-new-tokens", 4, "--device", "cpu", "--format", "json",
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert scored.exit_code == 0, scored.stderr
    rows = json.loads(scored.stdout)
    assert [row["system"] for row in rows] == ["base", "t2l"]
    assert {row["n_tasks"] for row in rows} == {1}
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores["metrics"]["t2l"]["per_task"]) == ["count"]

    (data / "shout.jsonl").write_text((data / "shout.jsonl").read_text() * 2)
    changed = run(*training)
    assert changed.exit_code == 2
    assert "begun with other data" in changed.stderr


def test_check_only(data, tmp_path) -> None:
    """The check needs no model; a broken folder is a usage error with the line at fault."""
    fine = run("train", "--data", data, "-o", tmp_path / "x", "--check", "--format", "json")
    assert json.loads(fine.stdout)["tasks"] == 3
    (tmp_path / "tasks.jsonl").write_text('{"task": "a", "file": "a.jsonl"}\n')
    broken = run("train", "--data", tmp_path, "-o", tmp_path / "x", "--check")
    assert broken.exit_code == 2
    assert "tasks.jsonl:1" in broken.stderr


def test_no_such_device(data, tmp_path, monkeypatch) -> None:
    """A device that isn't there is refused before anything is prepared."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in (["train", "-o", tmp_path / "x"], ["eval"]):
        result = run(*command, "--data", data, "--device", "cuda")
        assert result.exit_code == 2
        assert "torch sees no CUDA device" in result.stderr
    assert not (tmp_path / "x").exists()


def test_rows_must_hold_an_example(data, tmp_path) -> None:
    """Settings that leave nothing to train on are refused before anything is loaded."""
    result = run("train", "--data", data, "-o", tmp_path / "x", "--row-tokens", 64)
    assert result.exit_code == 2
    assert "--max-tokens is larger than --row-tokens" in result.stderr
