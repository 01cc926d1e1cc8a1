"""
Differences between systems with paired bootstrap intervals over tasks.

    python -m training.compare results.json --system t2l --against base,t2l-shuffled
    python -m training.compare new.json --others old.json --against "t2l of old,base of old"

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


def with_others(results: dict[str, Any], others: Sequence[Path]) -> dict[str, Any]:
    """Add the systems of other evaluations of the split, as ``NAME of FILE`` without the split."""
    metrics, split = dict(results["metrics"]), results["setup"]["split"]
    for path in others:
        other = json.loads(path.read_text())
        if other["setup"]["split"] == split:
            file = path.stem.split("--")[0].removesuffix(f"-{split.replace('_', '-')}")
            metrics |= {f"{name} of {file}": scores for name, scores in other["metrics"].items()}
    return metrics


def gain(metrics: dict[str, Any], system: str, base: str, oracle: str) -> str:
    """
    Give the share of one system's gain over *base* that another has, in ROUGE-L, in per cent.

    Args:
        metrics: Of one evaluation.
        system: Whose share.
        base: What both gain over.
        oracle: Whose gain is the whole; its tasks count.
    """
    scores = [
        np.array(
            [metrics[name]["per_task"][task]["rouge_l"] for task in metrics[oracle]["per_task"]]
        )
        for name in (base, system, oracle)
    ]
    return ratio(scores[1] - scores[0], scores[2] - scores[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description="Paired bootstrap over tasks."
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--system", default="t2l")
    parser.add_argument("--against", default="base,definition,multi-task,t2l-shuffled")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="of the same tasks")
    parser.add_argument("--gain", help="BASE,ORACLE: the share of the oracle's gain, too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    document: dict[str, list[dict[str, Any]]] = {}
    table = Table("SPLIT", "METRIC", f"{args.system} MINUS", "DIFFERENCE", "95 %", box=None)
    for path in args.results:
        results = json.loads(path.read_text())
        split = results["setup"]["split"]
        metrics = with_others(results, args.others)
        compared = compare(metrics, args.system, args.against.split(","))
        document[split] = list(compared)
        if args.gain:
            share = gain(metrics, args.system, *args.gain.split(","))
            document[split].append(
                {"against": args.gain, "metric": "share of gain", "share": share}
            )
            print(f"{split}: {args.system} has {share} of the gain ({args.gain})")
        for row in compared:
            bounds = f"{row['low']:+.1f} to {row['high']:+.1f}"
            table.add_row(split, row["metric"], row["against"], f"{row['difference']:+.1f}", bounds)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
