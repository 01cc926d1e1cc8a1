"""
Build a training pack from a corpus folder.

    python -m training.prepare --corpus DIR --out runs/pack.safetensors
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t2l_router import models
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder, normalise
from t2l_router.errors import ConfigError
from training.corpus import Task, load_tasks
from training.data import FULL, RICH, TERSE, Pack
from training.tokenise import Choice, join, tokenise_all

SHIPPABLE = frozenset({"permissive", "share_alike", "unknown", "own"})


def build(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    encoder: TaskEncoder,
    *,
    facts: dict[str, str],
    choice: Choice | None = None,
    descriptions: int = 64,
    by_inputs: bool = False,
    workers: int = 1,
) -> Pack:
    """
    Tokenise examples and embed descriptions.

    Args:
        tasks: Only their ``train`` examples are read.
        tokenizer: The base model's.
        encoder: The task encoder.
        facts: Kept in the pack: names and fingerprints.
        choice: Which examples; None takes the recipe's.
        descriptions: At most so many a task, beside all terse ones.
        by_inputs: Let inputs of training examples stand for the descriptions: what a hypernetwork
            that reads the input itself (Hyperdecoders) is trained on.
        workers: Processes that tokenise.

    Returns:
        The pack; tasks of which no example fits are left out of it.
    """
    choice = choice or Choice()
    every = tokenise_all(tasks, tokenizer, choice, workers=workers)
    console = Console(stderr=True)
    tokens = list(
        track(
            every, "Tokenising", total=len(tasks), console=console, disable=not console.is_terminal
        )
    )
    kept = [(task, part) for task, part in zip(tasks, tokens, strict=True) if len(part.lengths)]
    if not kept:
        raise ConfigError(f"no example fits into {choice.max_tokens} tokens")
    texts: list[str] = []
    owners: list[int] = []
    styles: list[int] = []
    for index, (task, _) in enumerate(kept):
        rng = random.Random(f"{choice.seed}/{task.name}/descriptions")  # noqa: S311 - sampling
        known, short, full = task.training_descriptions, task.terse_descriptions, [task.definition]
        if by_inputs:
            known, short, full = tuple(e.text for e in task.examples("train")), (), []
        rich = rng.sample(known, min(descriptions, len(known)))
        texts += [*rich, *short, *full]
        owners += [index] * (len(rich) + len(short) + len(full))
        styles += [RICH] * len(rich) + [TERSE] * len(short) + [FULL] * len(full)
    return Pack(
        **join(part for _, part in kept),
        embeddings=_embed(encoder, texts),
        embedding_tasks=np.asarray(owners, np.int32),
        terse=np.asarray(styles, np.int8),
        facts={
            **facts,
            "tasks": [task.name for task, _ in kept],
            "descriptions": [normalise(text) for text in texts],
        },
    )


def _embed(encoder: TaskEncoder, texts: list[str]) -> NDArray[np.float32]:
    step = 256
    parts = [
        encoder.embed(texts[at : at + step])
        for at in track(range(0, len(texts), step), "Embedding descriptions")
    ]
    return np.concatenate(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--splits", default="train,train_aux")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--instructed", type=int, default=150)
    parser.add_argument("--descriptions", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=384)
    parser.add_argument(
        "--by-inputs", action="store_true", help="inputs of examples stand for descriptions"
    )
    parser.add_argument(
        "--templates", choices=["corpus", "paper"], default="corpus", help="of the ten benchmarks"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--device", default="cpu", help="that embeds descriptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--any-licence", action="store_true", help="for weights that never leave this machine"
    )
    args = parser.parse_args(argv)
    tasks = load_tasks(args.corpus, args.splits.split(","))
    kept = [task for task in tasks if args.any_licence or task.licence_class in SHIPPABLE]
    cache = Settings().cache_dir
    base = models.pull(args.base, cache_dir=cache)
    encoder_model = models.pull(args.encoder, cache_dir=cache)
    encoder = TaskEncoder.load(encoder_model, device=args.device)
    pack = build(
        kept,
        AutoTokenizer.from_pretrained(base.path, local_files_only=True),
        encoder,
        facts={
            "base_model": base.name,
            "base_fingerprint": base.fingerprint,
            "encoder": encoder_model.name,
            "encoder_fingerprint": encoder.fingerprint,
        },
        choice=Choice(args.examples, args.instructed, args.max_tokens, args.templates, args.seed),
        descriptions=args.descriptions,
        by_inputs=args.by_inputs,
        workers=args.workers,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pack.save(args.out)
    print(
        f"{args.out}: {len(pack.facts['tasks'])} tasks, {len(pack.answers):,} examples, "
        f"{len(pack.tokens):,} tokens, {len(pack.embeddings):,} descriptions; "
        f"{len(tasks) - len(kept)} tasks left out for their licence"
    )


if __name__ == "__main__":
    main()
