"""
Score systems on the test examples of a corpus split.

    python -m training.evaluate --corpus DIR --split validation --checkpoint default \
        --systems base,definition,t2l,t2l-shuffled --limit 20 --json results.json

Answers are greedy. Scores are means over tasks of means over examples, 0 to 100; the own metric is
the one that the corpus names for a task. Systems that depend on a description are scored
``--descriptions`` times, each with another one, and averaged. Which systems there are:
training/systems.py.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from t2l_router import checkpoint
from t2l_router.errors import ConfigError, T2LError
from t2l_router.generator import AdapterGenerator
from t2l_router.lora import LoraSpec, LoraWeights
from training.bench import Bench
from training.benchmarks import paper_form
from training.conditions import Inputs
from training.corpus import Example, Task, load_tasks
from training.embeddings import Encoder, OneHotEncoder, load_encoder
from training.oracle_file import Oracles
from training.sampling import sample
from training.scoring import METRICS, summarise
from training.systems import SYSTEMS, System, choose


def evaluate(args: argparse.Namespace) -> dict[str, object]:
    """Score every system that *args* names; see ``--help``."""
    began = time.monotonic()
    hypernet = checkpoint.from_pretrained(args.checkpoint)
    lora = hypernet.config.lora
    generator = AdapterGenerator.load(args.checkpoint, base=lora, device=args.device)
    tasks = load_tasks(args.corpus, args.split.split(","))
    systems = _possible(choose(args.systems), tasks)
    drawn = [
        [_form(task, examples, args.templates) for examples in sample(task, args.limit, args.seed)]
        for task in tasks
    ]
    own = Oracles.load(args.own_oracles) if args.own_oracles else None
    if hypernet.config.encoder == "one-hot":
        if own is None:
            raise ConfigError("a one-hot hypernetwork needs --own-oracles, whose tasks it knows")
        encoder: Encoder = OneHotEncoder(own.tasks, tasks)
    else:
        encoder = load_encoder(
            args.encoder or hypernet.config.encoder,
            lora=checkpoint.encoder_lora(args.checkpoint),
        )
    inputs = Inputs(
        tasks,
        examples=[examples for examples, _ in drawn],
        shots=[shots for _, shots in drawn],
        encoder=encoder,
        shared=LoraWeights.load_peft(args.multi_task, lora) if args.multi_task else None,
        library=Oracles.load(args.oracles) if args.oracles else None,
        own=own,
    )
    bench = Bench(
        inputs, generator, args.max_new_tokens, args.batch, only_first_line=args.first_line
    )
    bench.load_base(args.base or lora.base_model, device=args.device, dtype=args.dtype)
    metrics: dict[str, dict[str, object]] = {}
    results: dict[str, object] = {}
    for system in systems:
        per_task = bench.score(system, seed=args.seed, draws=args.descriptions)
        metrics[system.name] = summarise(per_task)
        results = {
            "run": _run_facts(args, time.monotonic() - began),
            "setup": _setup_facts(args, lora, generator),
            "metrics": metrics,
        }
        if args.json:  # after each system: a run that is stopped has lost one at most
            args.json.write_text(json.dumps(results, indent=1) + "\n")
        if not sys.stderr.isatty():  # on a terminal the bars say how far it is
            rouge_l = metrics[system.name]["rouge_l"]
            print(f"{system.name}: ROUGE-L {rouge_l:.1f}", file=sys.stderr, flush=True)
    if bench.refused:
        print(f"{bench.refused} adapters refused; the base model answered", file=sys.stderr)
    return results


def _possible(systems: list[System], tasks: list[Task]) -> list[System]:
    """Leave out what takes another task's description or examples where there is no other."""
    if len(tasks) > 1:
        return systems
    chosen = [system for system in systems if "shuffled" not in (system.adapter, system.examples)]
    for system in systems:
        if system not in chosen:
            print(f"{system.name} is left out: it needs a second task", file=sys.stderr)
    if not chosen:
        raise ConfigError("no system is left to score; choose a split of several tasks")
    return chosen


def _form(task: Task, examples: list[Example], templates: str) -> list[Example]:
    if templates == "corpus":
        return examples
    return [paper_form(task, example) for example in examples]


def command_line(module: str, args: argparse.Namespace) -> str:
    """Give the command that was run, with CORPUS for the corpus and bare names for other paths."""
    words = [
        "CORPUS" if word == str(args.corpus) else Path(word).name if word.startswith("/") else word
        for word in args.argv
    ]
    return shlex.join(["python", "-m", module, *words])


def _run_facts(args: argparse.Namespace, seconds: float) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whatever git the user has
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "command": command_line("training.evaluate", args),
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }


def _setup_facts(
    args: argparse.Namespace, lora: LoraSpec, generator: AdapterGenerator
) -> dict[str, object]:
    cuda = args.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "base_model": lora.base_model,
        "hypernet_id": generator.hypernet_id,
        "split": args.split,
        "limit": args.limit,
        "descriptions": args.descriptions,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "first_line": args.first_line,
        "templates": args.templates,
        "label": args.label,
    }


def _table(results: dict[str, object]) -> Table:
    table = Table("SYSTEM", "ROUGE-L", "EXACT", "OWN METRIC", "TASKS", box=None)
    for name, scores in results["metrics"].items():  # type: ignore[attr-defined]
        means = (f"{scores[metric]:.1f}" for metric in METRICS)
        table.add_row(name, *means, str(scores["n_tasks"]))
    return table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line's arguments, as `evaluate` takes them."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Score systems on a corpus split."
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with tasks.jsonl")
    parser.add_argument("--split", required=True, help="one or more, comma-separated")
    parser.add_argument("--checkpoint", default=checkpoint.DEFAULT, help="hypernetwork")
    parser.add_argument(
        "--systems",
        default="base,definition,description,t2l,t2l-shuffled",
        help="comma-separated, of: " + ", ".join(SYSTEMS),
    )
    parser.add_argument("--limit", type=int, default=20, help="examples a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--templates", choices=["corpus", "paper"], default="corpus", help="of the ten benchmarks"
    )
    parser.add_argument("--label", default="", help="kept with the results, e.g. tasks=64")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--base", default="", help="directory or name; default: the checkpoint's")
    parser.add_argument("--encoder", default="", help="name, or a file of stored embeddings")
    parser.add_argument("--multi-task", type=Path, help="adapter directory of the baseline")
    parser.add_argument("--oracles", type=Path, help="training tasks' oracle LoRAs, one file")
    parser.add_argument("--own-oracles", type=Path, help="evaluated tasks' oracle LoRAs, one file")
    parser.add_argument(
        "--descriptions",
        type=int,
        default=1,
        help="draws of descriptions, seeds SEED, SEED + 1, ...",
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "bfloat16", "int8", "int4"],
        default="bfloat16",
        help="as served with it; bfloat16 is transformers' own",
    )
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument(
        "--first-line",
        action="store_true",
        help="cut every system's answers at a line break: for models that don't end them",
    )
    parser.add_argument("--batch", type=int, default=32, help="prompts answered together")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(argv)
    try:
        results = evaluate(args)
    except T2LError as error:
        sys.exit(f"training.evaluate: {error}")
    Console().print(_table(results))


if __name__ == "__main__":
    main()
