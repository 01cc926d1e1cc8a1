"""
Features of many draws of a few training examples, of every task: what a conditioned run reads.

    python -m training.example_rows --corpus DIR --features hidden --out runs/examples.safetensors
    python -m training.sft --examples runs/examples.safetensors ...
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t2l_router.errors import ConfigError
from t2l_router.example_features import (
    KINDS,
    Floats,
    Pair,
    Shown,
    Standard,
    embedded,
    hidden,
    shown,
)
from training.base import find_model, load_frozen
from training.corpus import Example, Task, load_tasks
from training.embeddings import load_encoder

_STD_LEAST = 1e-4  # the input's state before every answer is the same
_COUNTS, _SHARES = (1, 2, 3, 4), (0.15, 0.2, 0.5, 0.15)


@dataclass(frozen=True)
class ExampleRows:
    """
    Features of draws of examples.

    Args:
        tasks: T names.
        rows: ``[T, K, W]`` float16 unit rows, K draws a task.
        standard: How they were made from raw features.
    """

    tasks: list[str]
    rows: NDArray[np.float16]
    standard: Standard

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        facts = {**self.standard.facts(), "tasks": json.dumps(self.tasks)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"rows": self.rows, **self.standard.tensors()}, path, metadata=facts)

    @classmethod
    def load(cls, path: Path) -> "ExampleRows":
        """Read what `save` wrote."""
        with safe_open(path, "np") as file:
            tasks = json.loads(file.metadata()["tasks"])
            return cls(tasks, file.get_tensor("rows"), Standard.load(path))

    def of(self, names: Sequence[str]) -> NDArray[np.float16]:
        """
        Give the rows of some tasks in their order.

        Raises:
            ConfigError: One of them has none.
        """
        number = {name: row for row, name in enumerate(self.tasks)}
        missing = [name for name in names if name not in number]
        if missing:
            raise ConfigError(f"no example features of {missing[0]} and {len(missing) - 1} more")
        return self.rows[[number[name] for name in names]]


def draw(task: Task, draws: int, seed: int) -> list[list[Pair]]:
    """
    Draw sets of one to four training examples of a task.

    Half of the sets are the shortest of ten, as the few-shot system shows them, half any.
    """
    rng = random.Random(f"examples/{seed}/{task.name}")  # noqa: S311 - sampling, not secrets
    pool = list(task.examples("train"))
    if not pool:
        raise ConfigError(f"{task.path}: no training example")
    return [[_pair(example) for example in _some(pool, rng)] for _ in range(draws)]


def _some(pool: list[Example], rng: random.Random) -> list[Example]:
    some = rng.sample(pool, min(10, len(pool)))
    count = rng.choices(_COUNTS, _SHARES)[0]
    if rng.random() < 0.5:  # noqa: PLR2004 - half
        some.sort(key=lambda example: len(example.text))
    return some[:count]


def _pair(example: Example) -> Pair:
    return example.text, example.outputs[0]


def standardise(raw: Floats, kinds: tuple[str, ...], sizes: tuple[int, ...]) -> Standard:
    """
    Fit mean and spread to raw features.

    Args:
        raw: ``[T, K, F]``, K draws of T tasks.
        kinds: As in `Standard`.
        sizes: As in `Standard`.
    """
    flat = raw.reshape(-1, raw.shape[-1])
    return Standard(kinds, sizes, flat.mean(0), flat.std(0) + _STD_LEAST)


def read(
    kind: str, sets: list[list[Pair]], *, base: Path, encoder: str, device: str, workers: int
) -> Floats:
    """Give the raw features of one kind, ``[N, F]``."""
    if kind != "hidden":
        return embedded(load_encoder(encoder), sets, kind)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    conversations = list(_tokenise(tokenizer, sets, workers))
    print(f"{sum(len(c.ids) for c in conversations):,} tokens of examples", flush=True)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return hidden(load_frozen(base, device=device, dtype=dtype), conversations)


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, sets: list[list[Pair]], workers: int
) -> Iterator[Shown]:
    if workers < 2:  # noqa: PLR2004 - a pool of one is none
        yield from (shown(tokenizer, pairs) for pairs in sets)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(shown, tokenizer), sets, chunksize=256)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--splits", default="train,train_aux")
    parser.add_argument("--features", default="hidden", help="of: " + ", ".join(KINDS))
    parser.add_argument("--draws", type=int, default=64, help="sets of examples a task")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    kinds = tuple(args.features.split(","))
    if set(kinds) - set(KINDS):
        parser.error(f"--features: of {', '.join(KINDS)}")
    tasks = load_tasks(args.corpus, args.splits.split(","))
    sets = [pairs for task in tasks for pairs in draw(task, args.draws, args.seed)]
    options = {"encoder": args.encoder, "device": args.device, "workers": args.workers}
    blocks = [read(kind, sets, base=find_model(args.base), **options) for kind in kinds]
    raw = np.concatenate(blocks, 1).reshape(len(tasks), args.draws, -1)
    sizes = tuple(block.shape[1] for block in blocks)
    standard = standardise(raw, kinds, sizes)
    rows = np.stack([standard.apply(group).astype(np.float16) for group in raw])
    ExampleRows([task.name for task in tasks], rows, standard).save(args.out)
    print(f"{args.out}: {len(tasks)} tasks x {args.draws} draws, width {standard.width}")


if __name__ == "__main__":
    main()
