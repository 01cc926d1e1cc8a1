"""
Which of a corpus' tasks a bare input belongs to: the strategies head and library.

    python -m tests.bench.bench_inference --corpus FOLDER [--cache FILE] [--out tests/bench/results]

Ten inputs of each held-out task, one at a time and without instructions, against a library of all
tasks of the corpus. ``description`` is the same search without the trained head; ``library`` knows
eight other inputs of every task.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np

from t2l_router import heads, models
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder
from t2l_router.inference_library import nearness
from t2l_router.topics import Matrix
from tests.bench.report import publish
from training.corpus import Task, load_tasks
from training.infer_head import CachedEncoder

SPLITS = (
    "train",
    "train_aux",
    "validation",
    "heldout_seen_family",
    "heldout_unseen_family",
    "benchmark",
)
HELD_OUT = ("heldout_seen_family", "heldout_unseen_family")
QUERIES, EXAMPLES, DESCRIPTIONS = 10, 8, 4
MAX_CHARS = 320


def inputs(task: Task, part: str, n: int) -> list[str]:
    """Some inputs of a task, the same each time."""
    texts = [example.text[:MAX_CHARS] for example in task.examples(part)]
    random.Random(f"0 {task.name}").shuffle(texts)
    return texts[:n]


def examples_of(task: Task) -> list[str]:
    """Inputs that the library knows: none of those that are asked."""
    known = inputs(task, "train", EXAMPLES)
    return known or inputs(task, "test", QUERIES + EXAMPLES)[QUERIES:]


def described(task: Task) -> list[str]:
    """Descriptions of a task: the first and some others, rich and terse."""
    texts = list(task.descriptions)
    random.Random(f"1 {task.name}").shuffle(texts)
    return [*texts[:DESCRIPTIONS], *task.terse_descriptions]


def ranks(scores: Matrix, right: list[int]) -> tuple[float, float]:
    """Shares of rows whose right column is the best, and among the best five."""
    above = (scores > scores[np.arange(len(right)), right][:, None]).sum(axis=1)
    return float((above < 1).mean()), float((above < 5).mean())


def centred(rows: Matrix) -> Matrix:
    """Unit mean."""
    mean = rows.mean(axis=0)
    return mean / np.linalg.norm(mean)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    name = "sentence-transformers/all-MiniLM-L6-v2"
    real = TaskEncoder.load(models.pull(name, cache_dir=Settings().cache_dir))
    trained = heads.load(encoder=real.fingerprint)
    encoder = CachedEncoder(real, args.cache)
    tasks = load_tasks(args.corpus, SPLITS)
    texts = {
        task.name: (described(task), examples_of(task), inputs(task, "test", QUERIES))
        for task in tasks
    }
    held = [i for i, task in enumerate(tasks) if task.split in HELD_OUT]
    encoder.embed([t for d, e, _ in texts.values() for t in (*d, *e)])
    encoder.embed([t for i in held for t in texts[tasks[i].name][2]])
    encoder.save()
    library = np.stack([centred(encoder.embed(texts[task.name][0])) for task in tasks])
    examples = [encoder.embed(texts[task.name][1] or texts[task.name][0]) for task in tasks]
    # How near any input is to each description, which says nothing about the input.
    seen = [t for task in tasks if task.split == "train" for t in texts[task.name][1][:2]]
    moved = trained.in_task_space(encoder.embed(seen)) @ library.T
    bias = np.sort(moved, axis=0)[-10:].mean(axis=0) / 2
    metrics: dict[str, float] = {"tasks": len(tasks)}
    for split in HELD_OUT:
        right = [i for i in held if tasks[i].split == split]
        queries = [(t, i) for i in right for t in texts[tasks[i].name][2]]
        rows = encoder.embed([t for t, _ in queries])
        labels = [i for _, i in queries]
        found = {
            "description": rows @ library.T,
            "head": trained.in_task_space(rows) @ library.T - bias,
            "library": np.stack([nearness(row, examples) for row in rows]),
        }
        metrics[f"{split}_inputs"] = len(labels)
        for strategy, scores in found.items():
            first, five = ranks(scores, labels)
            metrics[f"{split}_{strategy}_top1"] = round(first, 3)
            metrics[f"{split}_{strategy}_top5"] = round(five, 3)
    publish("inference", metrics, began=began, out=args.out, examples=EXAMPLES, encoder=name)


if __name__ == "__main__":
    main()
