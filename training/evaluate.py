"""
Score systems on the test examples of a corpus split.

    python -m training.evaluate --corpus DIR --split validation --checkpoint default \
        --systems base,definition,t2l,t2l-shuffled --limit 20 --json results.json

Answers are greedy. Scores are means over tasks of means over examples, 0 to 100.
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from t2l_router import checkpoint
from t2l_router.chat_format import render
from t2l_router.engines.slots import SlotBank
from t2l_router.errors import ConfigError, T2LError
from t2l_router.generator import AdapterGenerator
from t2l_router.lora import LoraSpec, LoraWeights
from training.answering import Prompt, answer
from training.base import find_model, load_frozen
from training.corpus import Example, Task, load_tasks
from training.embeddings import Encoder, load_encoder
from training.metrics import exact_match, rouge_l
from training.prompts import chat
from training.systems import System, choose, described, instruction

Scores = dict[str, float]


@dataclass
class Bench:
    """
    The tasks and everything that answers them.

    Args:
        tasks: What is evaluated.
        examples: Of each task.
        generator: Writes the adapters.
        encoder: Embeds descriptions.
        shared: The adapter of the ``multi-task`` systems.
        seed: Chooses descriptions.
        max_new_tokens: Longest answer.
        batch: Prompts answered together.
    """

    tasks: list[Task]
    examples: list[list[Example]]
    generator: AdapterGenerator
    encoder: Encoder
    shared: LoraWeights | None
    seed: int
    max_new_tokens: int
    batch: int

    def load_base(self, base: str, *, device: str) -> None:
        """Load the base model and open it for one adapter a task."""
        directory = find_model(base)
        # bf16 everywhere: what is scored is what is served.
        self._model = load_frozen(directory, device=device, dtype=torch.bfloat16)
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._bank = SlotBank(self._model, self.generator.spec, len(self.tasks))

    def score(self, system: System) -> dict[str, Scores]:
        """Answer every example with one system; task name -> scores."""
        slots = self._insert(system)
        prompts = [
            Prompt(self._render(task, example, system), slot)
            for task, examples, slot in zip(self.tasks, self.examples, slots, strict=True)
            for example in examples
        ]
        answers = iter(
            answer(
                self._model,
                self._bank,
                self._tokenizer,
                prompts,
                max_new_tokens=self.max_new_tokens,
                batch=self.batch,
                label=system.name,
            )
        )
        return {
            task.name: _mean_scores([(next(answers), example.outputs) for example in examples])
            for task, examples in zip(self.tasks, self.examples, strict=True)
        }

    def _insert(self, system: System) -> list[int]:
        """Put the system's adapters into slots; give each task's slot."""
        if system.adapter == "none":
            return [0] * len(self.tasks)
        if system.adapter == "shared":
            if self.shared is None:
                raise ConfigError(f"{system.name} needs --multi-task DIR, an adapter directory")
            self._bank.insert(1, self.shared)
            return [1] * len(self.tasks)
        embeddings = self.encoder.embed(described(self.tasks, system.adapter, self.seed))
        for start in range(0, len(embeddings), 32):
            adapters = self.generator.generate(embeddings[start : start + 32])
            for slot, weights in enumerate(adapters, start + 1):
                self._bank.insert(slot, weights)
        return list(range(1, len(self.tasks) + 1))

    def _render(self, task: Task, example: Example, system: System) -> list[int]:
        messages = chat(example.text, instruction=instruction(task, system.prompt, self.seed))
        return render(self._tokenizer, messages)[-_PROMPT_MOST:]


# Benchmarks hold inputs of thousands of tokens; their end holds the question.
_PROMPT_MOST = 1536


def _mean_scores(pairs: Sequence[tuple[str, tuple[str, ...]]]) -> Scores:
    n = len(pairs)
    return {
        "rouge_l": 100 * sum(rouge_l(text, outputs) for text, outputs in pairs) / n,
        "exact_match": 100 * sum(exact_match(text, outputs) for text, outputs in pairs) / n,
        "n": n,
    }


def summarise(per_task: dict[str, Scores]) -> dict[str, object]:
    """Add the means over tasks to one system's scores."""
    n = len(per_task)
    return {
        "rouge_l": sum(scores["rouge_l"] for scores in per_task.values()) / n,
        "exact_match": sum(scores["exact_match"] for scores in per_task.values()) / n,
        "n_tasks": n,
        "per_task": per_task,
    }


def evaluate(args: argparse.Namespace) -> dict[str, object]:
    """Score every system that *args* names; see ``--help``."""
    began = time.monotonic()
    systems = choose(args.systems)
    tasks = load_tasks(args.corpus, args.split.split(","))
    examples = [_sample(task, args.limit, args.seed) for task in tasks]
    hypernet = checkpoint.from_pretrained(args.checkpoint)
    lora = hypernet.config.lora
    generator = AdapterGenerator.load(args.checkpoint, base=lora, device=args.device)
    bench = Bench(
        tasks,
        examples,
        generator,
        load_encoder(args.encoder or hypernet.config.encoder),
        LoraWeights.load_peft(args.multi_task, lora) if args.multi_task else None,
        args.seed,
        args.max_new_tokens,
        args.batch,
    )
    bench.load_base(args.base or lora.base_model, device=args.device)
    metrics = {}
    for system in systems:
        metrics[system.name] = summarise(bench.score(system))
        if not sys.stdout.isatty():
            print(f"{system.name}: ROUGE-L {metrics[system.name]['rouge_l']:.1f}", flush=True)
    return {
        "run": _run_facts(args, time.monotonic() - began),
        "setup": _setup_facts(args, lora, generator),
        "metrics": metrics,
    }


def _sample(task: Task, limit: int, seed: int) -> list[Example]:
    pool = list(task.examples("test"))
    if not pool:
        raise ConfigError(f"{task.path}: no test example")
    random.Random(f"{seed}/{task.name}").shuffle(pool)  # noqa: S311 - sampling, not secrets
    return pool[:limit]


def _run_facts(args: argparse.Namespace, seconds: float) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whatever git the user has
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "command": shlex.join(["python", "-m", "training.evaluate", *args.argv]),
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
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
    }


def _table(results: dict[str, object]) -> Table:
    table = Table("SYSTEM", "ROUGE-L", "EXACT", "TASKS", box=None)
    for name, scores in results["metrics"].items():  # type: ignore[attr-defined]
        row = (f"{scores['rouge_l']:.1f}", f"{scores['exact_match']:.1f}", str(scores["n_tasks"]))
        table.add_row(name, *row)
    return table


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Score systems on a corpus split."
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with tasks.jsonl")
    parser.add_argument("--split", required=True, help="one or more, comma-separated")
    parser.add_argument("--checkpoint", default=checkpoint.DEFAULT, help="hypernetwork")
    parser.add_argument("--systems", default="base,definition,description,t2l,t2l-shuffled")
    parser.add_argument("--limit", type=int, default=20, help="examples a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--base", default="", help="directory or name; default: the checkpoint's")
    parser.add_argument("--encoder", default="", help="name, or a file of stored embeddings")
    parser.add_argument("--multi-task", type=Path, help="adapter directory of the baseline")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="prompts answered together")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    try:
        results = evaluate(args)
    except T2LError as error:
        sys.exit(f"training.evaluate: {error}")
    Console().print(_table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
