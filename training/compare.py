"""
Differences between systems with paired bootstrap intervals over tasks.

    python -m training.compare results.json --system t2l --against base,t2l-shuffled

Reads what `training.evaluate` wrote.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


def interval(
    differences: NDArray[np.float64], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """
    Give the 95 % percentile bootstrap interval of a mean.

    Args:
        differences: ``[N]`` one per task: tasks, not examples, are what we generalise over.
        draws: Resamples.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    means = rng.choice(differences, (draws, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> str:
    """Give a ratio of means over tasks in per cent, with its 95 % bootstrap interval."""
    if whole.mean() <= 0:
        return "no share (nothing to have a share of)"
    rng = np.random.default_rng(0)
    rows = rng.integers(len(part), size=(10_000, len(part)))
    sums = whole[rows].mean(1)
    sums[sums <= 0] = np.nan
    low, high = np.nanquantile(part[rows].mean(1) / sums, [0.025, 0.975])
    return f"{100 * part.mean() / whole.mean():.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def compare(metrics: dict[str, Any], system: str, against: Sequence[str]) -> list[dict[str, Any]]:
    """
    Compare one system with others on the tasks of one evaluation.

    Raises:
        KeyError: A system wasn't evaluated.
    """
    rows = []
    for other in against:
        for metric in ("rouge_l", "exact_match"):
            tasks = metrics[system]["per_task"]
            theirs = metrics[other]["per_task"]
            # An oracle has scores for some tasks only.
            common = [task for task in tasks if task in theirs]
            differences = np.array([tasks[t][metric] - theirs[t][metric] for t in common])
            low, high = interval(differences)
            rows.append(
                {
                    "against": other,
                    "metric": metric,
                    "difference": float(differences.mean()),
                    "low": low,
                    "high": high,
                    "n_tasks": len(differences),
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description="Paired bootstrap over tasks."
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--system", default="t2l")
    parser.add_argument("--against", default="base,definition,multi-task,t2l-shuffled")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    document = {}
    table = Table("SPLIT", "METRIC", f"{args.system} MINUS", "DIFFERENCE", "95 %", box=None)
    for path in args.results:
        results = json.loads(path.read_text())
        split = results["setup"]["split"]
        document[split] = compare(results["metrics"], args.system, args.against.split(","))
        for row in document[split]:
            bounds = f"{row['low']:+.1f} to {row['high']:+.1f}"
            table.add_row(split, row["metric"], row["against"], f"{row['difference']:+.1f}", bounds)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
