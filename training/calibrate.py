"""
Measure from where on held adapters may be reused, for one encoder and one hypernetwork.

    python -m training.calibrate --corpus DIR --json results.json --plot curve.png

Thresholds are chosen on one half of the tasks of *--splits*; the rates that are stated come from
the other half, and from the tasks of *--report-splits*. All of them are in the library.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoTokenizer

from t2l_router import checkpoint, models
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder
from t2l_router.errors import T2LError
from t2l_router.generator import AdapterGenerator
from t2l_router.guard import contradictions
from training import opposites
from training.base import find_model, load_frozen
from training.corpus import load_tasks
from training.embeddings import Encoder
from training.reuse_cases import Case, Described, divide, find_cases
from training.reuse_losses import (
    OTHER_TASK,
    PARAPHRASE,
    Comparison,
    LossMeter,
    Rivals,
    compare,
    farthest_harmless,
)
from training.reuse_outcome import Outcome, evaluate
from training.reuse_report import Row, document, grid_table, plot, refusal, table
from training.writing import BatchWriter

SIZES = (1, 10)  # aliases of each task in the library
_FARTHEST = 0.7  # delta-W distance at which losses are still measured


@dataclass(frozen=True)  # no slots: the defaults are read from the class
class Options:
    """
    What to measure.

    Args:
        corpus: Folder with ``tasks.jsonl``.
        splits: Tasks to choose thresholds on, and to check them on.
        report_splits: Tasks that only report.
        checkpoint: The hypernetwork.
        encoder: Its name; empty for the checkpoint's.
        queries: Of each task and style.
        target: Largest bound of the wrong-reuse rate, 0 to 1.
        loss_tasks: On how many tasks losses are measured.
        max_distance: Delta-W distance up to which adapters are harmless; None measures it.
        seed: Divides each task's descriptions.
    """

    corpus: Path
    splits: tuple[str, ...] = ("train", "train_aux", "validation")
    report_splits: tuple[str, ...] = ("heldout_seen_family", "heldout_unseen_family")
    checkpoint: str = checkpoint.DEFAULT
    encoder: str = ""
    queries: int = 2
    target: float = 0.02
    loss_tasks: int = 50
    max_distance: float | None = None
    seed: int = 0


def guard_rates(described: Sequence[Described]) -> Row:
    """Give how many opposites the guard finds, and how often it objects to paraphrases."""
    pairs = [
        (query, alias) for entry in described for query in entry.queries for alias in entry.aliases
    ]
    return {
        "opposites_found": _share(opposites.CHECKING),
        "n_opposites": len(opposites.CHECKING),
        "opposites_found_tuning": _share(opposites.TUNING),
        "n_opposites_tuning": len(opposites.TUNING),
        "false_alarms": _share(pairs),
        "n_paraphrases": len(pairs),
    }


def _share(pairs: Sequence[tuple[str, str]]) -> float:
    return sum(bool(contradictions(*pair)) for pair in pairs) / len(pairs)


def divide_cases(
    cases: Sequence[Case], described: Sequence[Described], report_splits: Sequence[str]
) -> dict[str, list[Case]]:
    """Divide cases by task: those to choose thresholds on, to check them, and held-out ones."""
    parts: dict[str, list[Case]] = {"choose": [], "check": [], "heldout": []}
    n_tuning = len(described) + 2 * len(opposites.TUNING)
    for case in cases:
        task = case.query.task
        if case.query.situation == "opposite":
            part = "choose" if task < n_tuning else "check"
        elif described[task].task.split in report_splits:
            part = "heldout"
        else:
            name = described[task].task.name
            part = "choose" if zlib.crc32(name.encode()) % 2 else "check"
        parts[part].append(case)
    return parts


def measure_losses(
    cases: Sequence[Case],
    described: Sequence[Described],
    *,
    encoder: Encoder,
    writer: BatchWriter,
    n_tasks: int,
) -> list[Comparison]:
    """
    Compare adapters by the base model's loss on the examples of some tasks.

    Args:
        cases: The first absent one of each task is taken, unless it is far off anyway.
        described: The tasks.
        encoder: Embeds descriptions.
        writer: Writes adapters.
        n_tasks: How many tasks.
    """
    near = [c for c in cases if c.query.situation == "absent" and c.distance <= _FARTHEST]
    first = {case.query.task: case for case in reversed(near)}
    chosen = sorted(first.values(), key=lambda c: zlib.crc32(c.query.text.encode()))[:n_tasks]
    directory = find_model(writer.generator.spec.base_model)
    model = load_frozen(directory, device="cpu", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    meter = LossMeter(model, tokenizer, writer.generator.spec)

    def rivals() -> Iterator[Rivals]:
        for case in chosen:
            own, other = described[case.query.task], described[case.found]
            texts = (case.query.text, own.aliases[0], other.aliases[0])
            fresh, paraphrase, stranger = writer(texts, encoder.embed(texts))
            yield Rivals(own.task, fresh, {PARAPHRASE: paraphrase, OTHER_TASK: stranger})

    return compare(meter, rivals(), examples=5)


def calibrate(options: Options) -> tuple[Outcome, Row]:
    """
    Run the whole measurement.

    Returns:
        The outcome, and the JSON document about it.

    Raises:
        ConfigError: The corpus has too little.
    """
    began = time.monotonic()
    hypernet = checkpoint.from_pretrained(options.checkpoint)
    generator = AdapterGenerator.load(options.checkpoint, base=hypernet.config.lora)
    encoder_model = models.pull(
        options.encoder or hypernet.config.encoder, cache_dir=Settings().cache_dir
    )
    lora = checkpoint.encoder_lora(options.checkpoint)
    encoder = TaskEncoder.load(encoder_model, lora=lora)
    tasks = load_tasks(options.corpus, [*options.splits, *options.report_splits])
    described = divide(tasks, aliases=max(SIZES), queries=options.queries, seed=options.seed)
    writer = BatchWriter.load(generator)
    cases = find_cases(
        described,
        (*opposites.TUNING, *opposites.CHECKING),
        encoder=encoder,
        write=writer,
        n_aliases=SIZES,
    )
    libraries = {
        n: divide_cases(found, described, options.report_splits) for n, found in cases.items()
    }
    max_distance, comparisons = options.max_distance, list[Comparison]()
    if max_distance is None:
        comparisons = measure_losses(
            libraries[max(SIZES)]["choose"],
            described,
            encoder=encoder,
            writer=writer,
            n_tasks=options.loss_tasks,
        )
        max_distance = farthest_harmless(comparisons)
    outcome = evaluate(libraries, max_distance=max_distance, target=options.target)
    thresholds = dataclasses.replace(
        outcome.thresholds, encoder=encoder.fingerprint, hypernet_id=generator.hypernet_id
    )
    outcome = dataclasses.replace(outcome, thresholds=thresholds)
    facts: Row = {
        "device": "cpu",
        "torch": torch.__version__,
        "encoder": encoder_model.name,
        "base_model": generator.spec.base_model,
        "n_tasks": len(described),
        "options": dataclasses.asdict(options) | {"corpus": options.corpus.name},
    }
    return outcome, document(
        outcome,
        comparisons,
        target=options.target,
        guard=guard_rates(described),
        facts=facts,
        began=began,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Measure from where on held adapters may be reused.",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with tasks.jsonl")
    parser.add_argument("--splits", default=",".join(Options.splits))
    parser.add_argument("--report-splits", default=",".join(Options.report_splits))
    parser.add_argument("--checkpoint", default=Options.checkpoint)
    parser.add_argument("--encoder", default="", help="name; default: the checkpoint's")
    parser.add_argument("--queries", type=int, default=Options.queries, help="of a task and style")
    parser.add_argument("--target", type=float, default=Options.target, help="bound of wrong reuse")
    parser.add_argument("--loss-tasks", type=int, default=Options.loss_tasks)
    parser.add_argument("--max-distance", type=float, help="given, no losses are measured")
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--plot", type=Path, help="write the curve here, PNG")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    options = Options(
        args.corpus,
        splits=tuple(args.splits.split(",")),
        report_splits=tuple(args.report_splits.split(",")) if args.report_splits else (),
        checkpoint=args.checkpoint,
        encoder=args.encoder,
        queries=args.queries,
        target=args.target,
        loss_tasks=args.loss_tasks,
        max_distance=args.max_distance,
        seed=args.seed,
    )
    try:
        outcome, results = calibrate(options)
    except T2LError as error:
        sys.exit(f"training.calibrate: {error}")
    console = Console()
    console.print(grid_table(outcome))
    console.print(table(outcome))
    console.print(outcome.thresholds)
    if math.isinf(outcome.thresholds.score):
        console.print(refusal(options.target))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        plot(outcome, args.plot, target=options.target)


if __name__ == "__main__":
    main()
