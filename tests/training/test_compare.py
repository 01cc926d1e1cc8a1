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
