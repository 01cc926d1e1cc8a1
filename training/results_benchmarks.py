"""Tables of the paper's ten benchmarks: a row a system, a column a benchmark, in own metrics."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.compare import interval, ratio
from training.markdown import ends, head, row

Document = dict[str, Any]
_PREFIX = "bench_"


def is_benchmark(document: Document) -> bool:
    """Whether an evaluation is one of the benchmarks alone."""
    return bool(document["setup"]["split"] == "benchmark")


def benchmarks(documents: Mapping[str, Document]) -> list[str]:
    """
    Write the evaluations of the benchmarks: those of reconstructed oracles, and all others.

    Evaluations with the same prompts, base model and number of examples share a table; a label
    stands in front of the systems of an evaluation that has one.
    """
    groups: dict[tuple[str, ...], dict[str, Document]] = defaultdict(dict)
    for name, document in documents.items():
        setup = document["setup"]
        kind = "reconstruction" if setup.get("label", "").startswith("recon") else "zero-shot"
        key = (kind, setup["base_model"], setup.get("templates", "corpus"), str(setup["limit"]))
        groups[key][name] = document
    lines: list[str] = []
    for (kind, base, templates, limit), group in sorted(groups.items(), reverse=True):
        title = "Zero-shot" if kind == "zero-shot" else "Reconstructed oracles"
        prompts = "the paper's prompts" if templates == "paper" else "the corpus' prompts"
        devices = ", ".join(sorted({one["setup"]["device"] for one in group.values()}))
        lines += [
            f"### {title}",
            "",
            f"{base}; {prompts}; {limit} test examples a benchmark at most; {devices}.",
            "Accuracy, pass@1 or right final numbers, in per cent.",
            "In parentheses: the 95 % interval over benchmarks.",
            "Share: of the task's own oracle LoRA's mean, on the benchmarks that have one.",
            "",
            *_table(group),
            "",
            "```",
            *(one["run"]["command"] for one in group.values()),
            "```",
            "",
        ]
    return lines


def _table(group: Mapping[str, Document]) -> list[str]:
    own, rouge_l = _rows(group.values(), "score"), _rows(group.values(), "rouge_l")
    tasks = sorted({task for scores in own.values() for task in scores})
    names = (task.removeprefix(_PREFIX) for task in tasks)
    lines = head("system", *names, "mean (95 %)", "share", "ROUGE-L", "share")
    for name, scores in own.items():
        cells = [f"{scores[task]:.1f}" if task in scores else "-" for task in tasks]
        mean = f"{_values(scores).mean():.1f} ({ends(*interval(_values(scores)))})"
        general = f"{_values(rouge_l[name]).mean():.1f}"
        shares = (_share(name, own), _share(name, rouge_l))
        lines.append(row([name, *cells, mean, shares[0], general, shares[1]]))
    return lines


def _values(scores: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array(list(scores.values()))


def _share(name: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A system's mean in per cent of its oracles', on the benchmarks that have an oracle."""
    oracle = f"oracle, {name.partition(', ')[2]}"
    oracle = oracle if oracle in rows else "oracle"
    if name.startswith("oracle") or oracle not in rows:
        return ""
    common = [task for task in rows[oracle] if task in rows[name]]
    mine, theirs = (np.array([rows[which][task] for task in common]) for which in (name, oracle))
    return ratio(mine, theirs)


def _rows(documents: Iterable[Document], metric: str) -> dict[str, dict[str, float]]:
    """Row's name -> benchmark -> score; what several evaluations scored stands in one row."""
    rows: dict[str, dict[str, float]] = {}
    for document in documents:
        label = document["setup"].get("label", "")
        for system, scores in document["metrics"].items():
            found = {task: one[metric] for task, one in scores["per_task"].items()}
            # Only the hypernetwork's own systems depend on what the label names; and oracles, where
            # they were trained once more.
            others = system == "oracle" and rows.get(system, found) != found
            own = system.startswith("t2l") or others
            name = f"{system}, {label}" if label and own else system
            rows.setdefault(name, found)
    return rows
