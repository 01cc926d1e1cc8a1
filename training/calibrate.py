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
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoTokenizer

from t2l_router import checkpoint, models
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder
from t2l_router.errors import ConfigError, T2LError
from t2l_router.generator import AdapterGenerator
from t2l_router.guard import contradictions
from training import opposites
from training.base import find_model, load_frozen
from training.corpus import load_tasks
from training.reuse_cases import Case, Described, Encoder, divide, find_cases
from training.reuse_curve import least_n
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
from training.reuse_report import Row, document, grid_table, plot, table

SIZES = (1, 10)  # aliases of each task in the library
_FARTHEST = 0.7  # delta-W distance at which losses are still measured


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
    generator: AdapterGenerator,
    n_tasks: int,
) -> list[Comparison]:
    """
    Compare adapters by the base model's loss on the examples of some tasks.

    Args:
        cases: The first absent one of each task is taken, unless it is far off anyway.
        described: The tasks.
        encoder: Embeds descriptions.
        generator: Writes adapters.
        n_tasks: How many tasks.
    """
    near = [c for c in cases if c.query.situation == "absent" and c.distance <= _FARTHEST]
    first = {case.query.task: case for case in reversed(near)}
    chosen = sorted(first.values(), key=lambda c: zlib.crc32(c.query.text.encode()))[:n_tasks]
    directory = find_model(generator.spec.base_model)
    model = load_frozen(directory, device="cpu", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    meter = LossMeter(model, tokenizer, generator.spec)

    def rivals() -> Iterator[Rivals]:
        for case in chosen:
            own, other = described[case.query.task], described[case.found]
            texts = (case.query.text, own.aliases[0], other.aliases[0])
            fresh, paraphrase, stranger = generator.generate(encoder.embed(texts))
            yield Rivals(own.task, fresh, {PARAPHRASE: paraphrase, OTHER_TASK: stranger})

    return compare(meter, rivals(), examples=5)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Measure from where on held adapters may be reused.",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with tasks.jsonl")
    parser.add_argument("--splits", default="train,train_aux,validation")
    parser.add_argument("--report-splits", default="heldout_seen_family,heldout_unseen_family")
    parser.add_argument("--checkpoint", default=checkpoint.DEFAULT)
    parser.add_argument("--encoder", default="", help="name; default: the checkpoint's")
    parser.add_argument("--queries", type=int, default=2, help="of each task and style")
    parser.add_argument("--target", type=float, default=0.02, help="largest bound of wrong reuse")
    parser.add_argument("--loss-tasks", type=int, default=80, help="on which losses are measured")
    parser.add_argument("--max-distance", type=float, help="skips the losses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--plot", type=Path, help="write the curve here, PNG")
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    return args


def calibrate(args: argparse.Namespace) -> tuple[Outcome, Row]:
    """
    Run the measurement; see ``--help``.

    Raises:
        ConfigError: The corpus has too little, or the losses show no harmless distance.
    """
    began = time.monotonic()
    hypernet = checkpoint.from_pretrained(args.checkpoint)
    generator = AdapterGenerator.load(args.checkpoint, base=hypernet.config.lora)
    encoder_model = models.pull(
        args.encoder or hypernet.config.encoder, cache_dir=Settings().cache_dir
    )
    encoder = TaskEncoder.load(encoder_model)
    report = args.report_splits.split(",") if args.report_splits else []
    tasks = load_tasks(args.corpus, [*args.splits.split(","), *report])
    described = divide(tasks, aliases=max(SIZES), queries=args.queries, seed=args.seed)
    cases = find_cases(
        described,
        (*opposites.TUNING, *opposites.CHECKING),
        encoder=encoder,
        generate=generator.generate,
        n_aliases=SIZES,
    )
    libraries = {n: divide_cases(found, described, report) for n, found in cases.items()}
    comparisons: list[Comparison] = []
    max_distance = args.max_distance
    if max_distance is None:
        comparisons = measure_losses(
            libraries[max(SIZES)]["choose"],
            described,
            encoder=encoder,
            generator=generator,
            n_tasks=args.loss_tasks,
        )
        max_distance = farthest_harmless(comparisons)
    if max_distance is None:
        raise ConfigError(
            f"{len(comparisons)} comparisons show no distance up to which another task's adapter "
            "is harmless; raise --loss-tasks, or give --max-distance"
        )
    outcome = evaluate(libraries, max_distance=max_distance, target=args.target)
    named = dataclasses.replace(
        outcome.thresholds, encoder=encoder.fingerprint, hypernet_id=generator.hypernet_id
    )
    outcome = dataclasses.replace(outcome, thresholds=named)
    facts: Row = {
        "device": "cpu",
        "torch": torch.__version__,
        "encoder": encoder_model.name,
        "base_model": generator.spec.base_model,
        "n_tasks": len(described),
        "splits": args.splits,
        "report_splits": args.report_splits,
        "seed": args.seed,
    }
    return outcome, document(
        args, outcome, comparisons, guard=guard_rates(described), facts=facts, began=began
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    try:
        outcome, results = calibrate(args)
    except T2LError as error:
        sys.exit(f"training.calibrate: {error}")
    console = Console()
    console.print(grid_table(outcome))
    console.print(table(outcome))
    console.print(outcome.thresholds)
    if math.isinf(outcome.thresholds.score):
        console.print(
            f"No score and margin keep wrong reuse within {args.target:.1%}: it takes at least "
            f"{least_n(args.target)} clean reuses. Adapters are reused after a comparison only."
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        plot(outcome, args.plot, target=args.target)


if __name__ == "__main__":
    main()
