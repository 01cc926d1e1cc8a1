"""Tables of evaluations: every system of one, or one number's curve through several."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.analysis_plot import draw_scaling
from training.compare import compare, interval, ratio
from training.markdown import ends, head, row, span

Document = dict[str, Any]
_POINT = re.compile(r"(\w+)=(\w+)")
_SHUFFLED = ("t2l minus shuffled descriptions",)


def evaluation(name: str, document: Document) -> list[str]:
    """Write one evaluation: every system, and how far t2l is from it on the same tasks."""
    setup, metrics = document["setup"], document["metrics"]
    against = [system for system in metrics if system != "t2l"]
    leads = {}
    if "t2l" in metrics:
        rows = compare(metrics, "t2l", against)
        leads = {one["against"]: one for one in rows if one["metric"] == "rouge_l"}
    draws = setup.get("descriptions", 1)
    label = f", {setup['label']}" if setup.get("label") else ""
    lines = [
        f"### {setup['split'].replace(',', ', ')}: {name.split('--', maxsplit=1)[0]}{label}",
        "",
        f"{setup['base_model']}; hypernetwork `{setup['hypernet_id']}`; {setup['device']}.",
        f"Test examples a task: {setup['limit']} at most; descriptions a task: {draws}.",
        f"File: `{name}.json`.",
        "",
        *head("system", "ROUGE-L (95 %)", "exact match", "own metric", "t2l minus it", "tasks"),
    ]
    for system, scores in metrics.items():
        values = np.array([task["rouge_l"] for task in scores["per_task"].values()])
        own = f"{scores['score']:.1f}" if "score" in scores else "-"
        lead = span(leads[system]) if system in leads else ""
        mean = f"{scores['rouge_l']:.1f} ({ends(*interval(values))})"
        exact = f"{scores['exact_match']:.1f}"
        lines.append(row([system, mean, exact, own, lead, scores["n_tasks"]]))
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


def is_point(document: Document) -> bool:
    """Whether the label makes an evaluation a row of a table of `curves`."""
    return bool(_points(document))


def _points(document: Document) -> list[tuple[str, str]]:
    parts = document["setup"].get("label", "").split(",")
    found = [_POINT.fullmatch(part) for part in parts]
    return [(point[1], point[2]) for point in found if point is not None]


def curves(documents: Mapping[str, Document], images: Path) -> list[str]:
    """Write the evaluations that differ in one thing as tables, and draw those of numbers."""
    points: dict[str, dict[str, list[tuple[str, Document]]]] = defaultdict(dict)
    for document in documents.values():
        for name, value in _points(document):
            split = document["setup"]["split"]
            points[name].setdefault(split, []).append((value, document))
    lines = []
    for name, splits in sorted(points.items()):
        lines += [f"### By {name}", "", *head("split", name, "t2l, ROUGE-L (95 %)", *_SHUFFLED)]
        drawn: dict[str, list[tuple[int, float, float, float]]] = {}
        for split, rows in sorted(splits.items()):
            for value, document in sorted(rows, key=lambda one: (len(one[0]), one[0])):
                metrics = document["metrics"]
                scores = metrics["t2l"]["per_task"].values()
                low, high = interval(np.array([task["rouge_l"] for task in scores]))
                mean = metrics["t2l"]["rouge_l"]
                lead = ""
                if "t2l-shuffled" in metrics:
                    lead = span(compare(metrics, "t2l", ["t2l-shuffled"])[0])
                lines.append(row([split, value, f"{mean:.1f} ({ends(low, high)})", lead]))
                if value.isdecimal():
                    drawn.setdefault(split, []).append((int(value), mean, low, high))
        lines.append("")
        if drawn:
            path = images / f"scaling-{name}.png"
            draw_scaling(drawn, path, name)
            lines += [f"![Scores over the number of {name}](img/{path.name})", ""]
    commands = [one["run"]["command"] for one in documents.values() if is_point(one)]
    return [*lines, "```", *commands, "```", ""] if lines else []
