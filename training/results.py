"""
Write docs/results.md from the JSON files of evaluations and training runs.

    python -m training.results --results tests/bench/results --out docs/results.md

Reads what `training.evaluate` wrote, whatever its name, and the files ``recon-*``,
``training-runs*`` and ``analysis-*``; every table names the command that made its figures.
Evaluations labelled ``NAME=VALUE``, or several of these with commas, become rows of a table a name,
numbers a curve too; those of the benchmarks get tables of their own.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.markdown import head, row
from training.results_benchmarks import benchmarks, is_benchmark
from training.results_evaluations import curves, evaluation, is_point

_PEAK_TFLOPS = {"H100": 989, "H200": 989}  # dense bf16, the maker's figure for SXM cards
Document = dict[str, Any]


def load(folder: Path, pattern: str) -> dict[str, Document]:
    """Read the JSON files of a kind: stem -> document, by name."""
    paths = sorted(folder.glob(f"{pattern}*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def reconstruction(documents: Mapping[str, Document]) -> list[str]:
    """Write the reconstruction runs: errors on seen and on held-out descriptions."""
    if not documents:
        return []
    lines = [
        "Errors are on descriptions seen in training / on held-out ones.",
        "delta-W: its distance over its norm; entries: those of A and B, in standard deviations.",
        "",
        *head(
            "variant", "embeddings", "loss in", "oracles", "parameters", "delta-W", "entries",
            "seconds", "file",
        ),
    ]  # fmt: skip
    for name, document in documents.items():
        setup, metrics, run = document["setup"], document["metrics"], document["run"]
        unseen = metrics.get("unseen", {})
        cells = [
            setup["variant"], setup["embeddings"], setup["space"], setup["tasks"],
            f"{run['parameters']:,}",
            *(
                f"{_figure(metrics['seen'].get(key))} / {_figure(unseen.get(key))}"
                for key in ("delta_w", "z_score_l1")
            ),
            f"{run['seconds']:.0f}", f"`{name}.json`",
        ]  # fmt: skip
        lines.append(row(cells))
    commands = [document["run"]["command"] for document in documents.values()]
    return [*lines, "", "```", *commands, "```", ""]


def runs(documents: Mapping[str, Document]) -> list[str]:
    """Write the training runs: what they cost."""
    if not documents:
        return []
    lines = head(
        "run", "device", "steps", "minutes", "real tokens", "tokens/s", "TFLOP/s", "parameters",
        "command",
    )  # fmt: skip
    for document in documents.values():
        entries = document["metrics"]
        for run in entries if isinstance(entries, list) else [document["run"]]:
            if "tokens_per_s" not in run or "steps" not in run:
                continue
            cells = [
                run.get("name", ""), run["device"], f"{run['steps']:,}",
                f"{run['seconds'] / 60:.1f}", f"{run['tokens'] / 1e6:.0f} M",
                f"{run['tokens_per_s']:,}", _speed(run), f"{run['parameters']:,}",
                f"`{run['command']}`",
            ]  # fmt: skip
            lines.append(row(cells))
    return [*lines, ""]


def analysis(documents: Mapping[str, Document]) -> list[str]:
    """Write what the analysis measured."""
    lines = []
    for name, document in documents.items():
        metrics, setup = document["metrics"], document["setup"]
        neighbours = ", ".join(
            f"{100 * share:.0f} % in the {layer}"
            for layer, share in metrics["same_family_neighbour"].items()
        )
        ranks = ", ".join(
            f"{value:.2f} for {measure}"
            for measure, value in metrics["spearman_with_description_cosine"].items()
        )
        chance = f"{100 * metrics['same_family_by_chance']:.0f} %"
        lines += [
            f"{setup['tasks']} tasks of {setup['splits'].replace(',', ', ')}.",
            f"Hypernetwork `{setup['hypernet_id']}`; file `{name}.json`.",
            "",
            f"The nearest other task is of the same family for {neighbours}; {chance} by chance.",
            f"Rank correlation of the likeness of descriptions and of adapters, centred: {ranks}.",
            "",
            "![t-SNE maps of the tasks](img/tsne.png)",
            "![Likeness of adapters over likeness of descriptions](img/similarity.png)",
            "",
            "```", document["run"]["command"], "```", "",
        ]  # fmt: skip
    return lines


def write(folder: Path, images: Path) -> str:
    """Give the whole document."""
    evaluations = {
        name: document
        for name, document in load(folder, "").items()
        if {"split", "hypernet_id", "limit"} <= document.get("setup", {}).keys()
    }
    single = {
        name: document
        for name, document in evaluations.items()
        if not is_point(document) and not is_benchmark(document)
    }
    lines = [
        "# Results",
        "",
        "Written by `python -m training.results` from the JSON files in `tests/bench/results`.",
        "Scores are means over tasks, 0 to 100, of greedy answers.",
        "In parentheses: 95 % bootstrap intervals over tasks; those of differences are paired.",
        "`t2l minus it` is in ROUGE-L.",
        "What the systems are: [training.md](training.md). What failed: [log.md](log.md).",
        "Until 2026-11-28 `default` was the name of `default-sentences` (`d47ebabe0bac9a36`),",
        "and `default+default-examples` that of `default` (`fa7968adbc239ae7`).",
        "",
        "## Evaluations",
        "",
    ]
    for name, document in single.items():
        lines += evaluation(name, document)
    papers = {name: one for name, one in evaluations.items() if is_benchmark(one)}
    others = {name: one for name, one in evaluations.items() if not is_benchmark(one)}
    sections = (
        ("The paper's benchmarks", benchmarks(papers)),
        ("Scaling and variants", curves(others, images)),
        ("Reconstruction of oracle LoRAs", reconstruction(load(folder, "recon-"))),
        ("Training runs", runs(load(folder, "training-runs"))),
        ("Descriptions and adapters", analysis(load(folder, "analysis-"))),
    )
    for title, body in sections:
        if body:
            lines += [f"## {title}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def _speed(run: Mapping[str, Any]) -> str:
    """Operations a second by the count that the run recorded, and their share of bf16's peak."""
    if "flop_per_token" not in run:
        return "-"
    speed = run["tokens_per_s"] * run["flop_per_token"] / 1e12
    peak = next((p for name, p in _PEAK_TFLOPS.items() if name in run["device"]), None)
    return f"{speed:.0f} ({100 * speed / peak:.0f} %)" if peak else f"{speed:.1f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.results", description="Write docs/results.md."
    )
    parser.add_argument("--results", type=Path, default=Path("tests/bench/results"))
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args(argv)
    images = args.out.parent / "img"
    images.mkdir(parents=True, exist_ok=True)
    args.out.write_text(write(args.results, images))
    print(args.out)


if __name__ == "__main__":
    main()
