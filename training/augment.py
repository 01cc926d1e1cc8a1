"""
More tasks out of those with a few labels: the same inputs, other words for the labels.

    python -m training.augment --corpus DIR --out runs/corpus --variants 1

Writes a corpus that holds all of DIR's tasks and the variants of its training tasks, whose
descriptions end in the new labels. What a variant answers can't be guessed from its input: the
description or the examples must be heeded.
"""

import argparse
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.corpus import load_tasks, open_lines

_LABELS_MOST, _LENGTH_MOST = 6, 30
_WORDS_MOST = 3000
_COVERED = 0.99  # a stray answer or two don't make it another kind of task
USUAL = (
    ("yes", "no"), ("true", "false"), ("positive", "negative"), ("A", "B"), ("1", "2"),
    ("0", "1"), ("correct", "wrong"), ("agree", "disagree"), ("left", "right"), ("good", "bad"),
    ("accept", "reject"), ("+", "-"), ("high", "low"), ("foo", "bar"),
    ("A", "B", "C", "D", "E", "F"), ("1", "2", "3", "4", "5", "6"),
    ("red", "green", "blue", "yellow", "black", "white"),
    ("cat", "dog", "bird", "fish", "horse", "cow"),
    ("alpha", "beta", "gamma", "delta", "epsilon", "zeta"),
    ("north", "south", "east", "west", "up", "down"),
    ("first", "second", "third", "fourth", "fifth", "sixth"),
)  # fmt: skip


def labels_of(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give a task's labels, the commonest first; none if it isn't a choice among a few."""
    counts = Counter(_answer(example) for example in examples)
    common = counts.most_common(_LABELS_MOST)
    few = sum(count for _, count in common) >= _COVERED * len(examples)
    enough = len(common) > 1 and len(examples) >= 10 * len(common)
    short = all(0 < len(label) <= _LENGTH_MOST for label, _ in common)
    return [label for label, _ in common] if few and enough and short else []


def rename(labels: Sequence[str], words: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Choose another word for each label: half the time usual labels, else any of *words*."""
    while True:
        if rng.random() < 0.5 or len(words) < 2 * len(labels):  # noqa: PLR2004 - half
            chosen = list(rng.choice([usual for usual in USUAL if len(usual) >= len(labels)]))
            rng.shuffle(chosen)
        else:
            chosen = rng.sample(words, len(labels))
        names = dict(zip(labels, chosen, strict=False))
        if all(old.lower() != new.lower() for old, new in names.items()):
            return names


def variant(
    task: Mapping[str, Any], examples: Sequence[dict[str, Any]], names: Mapping[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Give the task with other labels, and its examples."""
    told = "; ".join(f'"{new}" for "{old}"' for old, new in names.items())
    full, short = f" Answer with {told}.", f", say {told}"
    changed: dict[str, Any] = dict(task)
    for key in ("descriptions", "eval_descriptions"):
        changed[key] = [text.rstrip() + full for text in task.get(key) or ()]
    changed["definition"] = (task.get("definition") or task["descriptions"][0]) + full
    changed["terse_descriptions"] = [text + short for text in task.get("terse_descriptions", ())]
    rows: list[dict[str, Any]] = []
    for example in examples:
        if _answer(example) in names:
            kept = {key: example[key] for key in ("input", "split") if key in example}
            rows.append(kept | {"output": names[_answer(example)]})
    return changed, rows


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Give the words of descriptions, the rare ones left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"[a-z]{3,9}", text.lower()))
    return [word for word, count in counts.most_common(_WORDS_MOST) if count > 1]


def _examples(path: Path) -> list[dict[str, Any]]:
    with open_lines(path) as file:
        return [json.loads(row) for row in file if row.strip()]


def _answer(example: Mapping[str, Any]) -> str:
    outputs = example.get("outputs") or [example["output"]]
    return str(outputs[0])


def augment(corpus: Path, out: Path, *, splits: Sequence[str], variants: int, seed: int) -> int:
    """
    Write the corpus with variants.

    Returns:
        How many variants there are.
    """
    (out / "data").mkdir(parents=True, exist_ok=True)
    words = vocabulary(
        text
        for task in load_tasks(corpus, splits)
        for text in (*task.training_descriptions, *task.terse_descriptions)
    )
    lines, count = [], 0
    for line in filter(None, (corpus / "tasks.jsonl").read_text(encoding="utf8").splitlines()):
        task = json.loads(line)
        path = corpus / task["file"]
        lines.append({**task, "file": os.path.relpath(path, out)})
        if task.get("split", "train") not in splits:
            continue
        examples = _examples(path)
        labels = labels_of(examples)
        rng = random.Random(f"{seed}/{task['task']}")  # noqa: S311 - sampling, not secrets
        for number in range(variants if labels else 0):
            changed, rows = variant(task, examples, rename(labels, words, rng))
            name = f"{task['task']}_renamed_{number}"
            lines.append({**changed, "task": name, "file": f"data/{name}.jsonl"})
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (out / "data" / f"{name}.jsonl").write_text(text, encoding="utf8")
            count += 1
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (out / "tasks.jsonl").write_text(text, encoding="utf8")
    return count


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", default="train,train_aux", help="whose tasks get variants")
    parser.add_argument("--variants", type=int, default=1, help="of each task with labels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    splits = args.splits.split(",")
    count = augment(args.corpus, args.out, splits=splits, variants=args.variants, seed=args.seed)
    print(f"{args.out}: {count} variants")


if __name__ == "__main__":
    main()
