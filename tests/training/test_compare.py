import json

import numpy as np
import pytest

from training import compare


def scores(values: list[float]) -> dict:
    return {"per_task": {f"t{i}": {"rouge_l": v, "exact_match": v} for i, v in enumerate(values)}}


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Over many samples of known mean, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = compare.interval(rng.normal(3, 2, 60), draws=400)
        held += low <= 3 <= high

    assert 180 <= held <= 199


def test_compare_pairs_the_tasks(tmp_path) -> None:
    """A constant lead has an interval without width, however much tasks differ."""
    out = tmp_path / "c.json"
    results = tmp_path / "r.json"
    metrics = {"t2l": scores([10, 50, 90]), "base": scores([5, 45, 85])}
    results.write_text(json.dumps({"setup": {"split": "s"}, "metrics": metrics}))

    compare.main([str(results), "--against", "base", "--json", str(out)])

    row = json.loads(out.read_text())["s"][0]
    assert row["difference"] == row["low"] == row["high"] == pytest.approx(5)


def test_compare_with_another_evaluation(tmp_path) -> None:
    """Systems of another file of the same split join in; those of other splits don't."""
    for name, split, value in (("new", "a_b", 7), ("old-a-b--cpu", "a_b", 4), ("odd", "c", 1)):
        document = {"setup": {"split": split}, "metrics": {"t2l": scores([value, value])}}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    files = [str(tmp_path / f"{name}.json") for name in ("new", "old-a-b--cpu", "odd")]
    out = tmp_path / "c.json"

    compare.main([files[0], "--others", *files[1:], "--against", "t2l of old", "--json", str(out)])

    assert json.loads(out.read_text())["a_b"][0]["difference"] == pytest.approx(3)
    with pytest.raises(KeyError, match="t2l of odd"):
        compare.main([files[0], "--others", *files[1:], "--against", "t2l of odd"])


def test_share_of_the_gain(tmp_path) -> None:
    """A system halfway between base and oracle on the oracle's tasks has half of its gain."""
    metrics = {
        "t2l": scores([20, 30, 99]),
        "base": scores([10, 10, 10]),
        "oracle": scores([30, 50]),
    }
    results, out = tmp_path / "r.json", tmp_path / "c.json"
    results.write_text(json.dumps({"setup": {"split": "s"}, "metrics": metrics}))

    compare.main([str(results), "--against", "base", "--gain", "base,oracle", "--json", str(out)])

    assert json.loads(out.read_text())["s"][-1]["share"] == "50 % (50 to 50)"
