"""
Write docs/results.md from the JSON files of evaluations and training runs.

    python -m training.results --results tests/bench/results --out docs/results.md

Reads what `training.evaluate` wrote, whatever its name, and the files ``recon-*``,
``training-runs*`` and ``analysis-*``; every table names the command that made its figures.
Evaluations labelled ``NAME=NUMBER`` become points of a curve.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.analysis_plot import draw_scaling
from training.compare import compare, interval, ratio

_LABEL = re.compile(r"(\w+)=(\d+)")
_PEAK_TFLOPS = {"H100": 989, "H200": 989}  # dense bf16, the maker's figure for SXM cards
Document = dict[str, Any]


def load(folder: Path, pattern: str) -> dict[str, Document]:
    """Read the JSON files of a kind: stem -> document, by name."""
    paths = sorted(folder.glob(f"{pattern}*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def evaluation(name: str, document: Document) -> list[str]:
    """Write one evaluation: every system, and how far t2l is from it on the same tasks."""
    setup, metrics = document["setup"], document["metrics"]
    against = [system for system in metrics if system != "t2l"]
    leads = {}
    if "t2l" in metrics:
        rows = compare(metrics, "t2l", against)
        leads = {row["against"]: row for row in rows if row["metric"] == "rouge_l"}
    draws = setup.get("descriptions", 1)
    label = f", {setup['label']}" if setup.get("label") else ""
    lines = [
        f"### {setup['split'].replace(',', ', ')}: {name.split('--', maxsplit=1)[0]}{label}",
        "",
        f"{setup['base_model']}; hypernetwork `{setup['hypernet_id']}`; {setup['device']}.",
        f"Test examples a task: {setup['limit']} at most; descriptions a task: {draws}.",
        f"File: `{name}.json`.",
        "",
        *_head("system", "ROUGE-L (95 %)", "exact match", "own metric", "t2l minus it", "tasks"),
    ]
    for system, scores in metrics.items():
        values = np.array([task["rouge_l"] for task in scores["per_task"].values()])
        own = f"{scores['score']:.1f}" if "score" in scores else "-"
        lead = _span(leads[system]) if system in leads else ""
        mean = f"{scores['rouge_l']:.1f} ({_ends(*interval(values))})"
        exact = f"{scores['exact_match']:.1f}"
        lines.append(_row([system, mean, exact, own, lead, scores["n_tasks"]]))
    lines += ["", *shares(metrics), "```", document["run"]["command"], "```", ""]
    return lines


def shares(metrics: Mapping[str, Document]) -> list[str]:
    """Say how much of the oracles' gain and of the rich descriptions' score is kept."""
    lines = []
    if {"base", "t2l", "oracle"} <= metrics.keys():
        tasks = list(metrics["oracle"]["per_task"])
        for metric, title in (("rouge_l", "ROUGE-L"), ("score", "the own metric")):
            if "score" not in metrics["oracle"]:
                continue
            base, t2l, oracle = (
                np.array([metrics[name]["per_task"][task][metric] for task in tasks])
                for name in ("base", "t2l", "oracle")
            )
            gain = ratio(t2l - base, oracle - base)
            kept = ratio(t2l, oracle)
            lines.append(
                f"In {title}, t2l has {gain} of the oracle LoRAs' gain over base and {kept} of "
                f"their score, over the {len(tasks)} tasks that have one."
            )
    if {"t2l", "t2l-terse"} <= metrics.keys():
        tasks = list(metrics["t2l"]["per_task"])
        rich, terse = (
            np.array([metrics[name]["per_task"][task]["rouge_l"] for task in tasks])
            for name in ("t2l", "t2l-terse")
        )
        lines.append(f"With a terse description t2l keeps {ratio(terse, rich)} of its ROUGE-L.")
    return [part for line in lines for part in (line, "")]


def curves(documents: Mapping[str, Document], images: Path) -> list[str]:
    """Write the evaluations that differ in one number as tables, and draw them."""
    points: dict[str, dict[str, list[tuple[int, float, float, float]]]] = defaultdict(dict)
    for document in documents.values():
        found = _LABEL.fullmatch(document["setup"].get("label", ""))
        if found is None:
            continue
        scores = document["metrics"]["t2l"]
        values = np.array([task["rouge_l"] for task in scores["per_task"].values()])
        point = (int(found[2]), scores["rouge_l"], *interval(values))
        points[found[1]].setdefault(document["setup"]["split"], []).append(point)
    lines = []
    for name, splits in sorted(points.items()):
        path = images / f"scaling-{name}.png"
        draw_scaling(splits, path, name)
        lines += [f"### Scaling with {name}", "", *_head("split", name, "t2l, ROUGE-L (95 %)")]
        for split, rows in sorted(splits.items()):
            for number, score, low, high in sorted(rows):
                lines.append(_row([split, number, f"{score:.1f} ({_ends(low, high)})"]))
        lines += ["", f"![Scores over the number of {name}](img/{path.name})", ""]
    return lines


def reconstruction(documents: Mapping[str, Document]) -> list[str]:
    """Write the reconstruction runs: errors on seen and on held-out descriptions."""
    if not documents:
        return []
    lines = [
        "Errors are on descriptions seen in training / on held-out ones.",
        "delta-W: its distance over its norm; entries: those of A and B, in standard deviations.",
        "",
        *_head(
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
        lines.append(_row(cells))
    commands = [document["run"]["command"] for document in documents.values()]
    return [*lines, "", "```", *commands, "```", ""]


def runs(documents: Mapping[str, Document]) -> list[str]:
    """Write the training runs: what they cost."""
    if not documents:
        return []
    lines = _head(
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
            lines.append(_row(cells))
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
        if not _LABEL.fullmatch(document["setup"].get("label", ""))
    }
    lines = [
        "# Results",
        "",
        "Written by `python -m training.results` from the JSON files in `tests/bench/results`.",
        "Scores are means over tasks, 0 to 100, of greedy answers.",
        "In parentheses: 95 % bootstrap intervals over tasks; those of differences are paired.",
        "`t2l minus it` is in ROUGE-L.",
        "What the systems are: [training.md](training.md). What failed: [log.md](log.md).",
        "",
        "## Evaluations",
        "",
    ]
    for name, document in single.items():
        lines += evaluation(name, document)
    sections = (
        ("Scaling", curves(evaluations, images)),
        ("Reconstruction of oracle LoRAs", reconstruction(load(folder, "recon-"))),
        ("Training runs", runs(load(folder, "training-runs"))),
        ("Descriptions and adapters", analysis(load(folder, "analysis-"))),
    )
    for title, body in sections:
        if body:
            lines += [f"## {title}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def _head(*titles: str) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _span(row: Mapping[str, float]) -> str:
    return f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"


def _ends(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}"


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
