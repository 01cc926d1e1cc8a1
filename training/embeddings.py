"""
Description embeddings computed once and carried to machines that have no encoder.

    python -m training.embeddings --corpus DIR --splits validation --out embeddings.safetensors

The file holds every description of the splits' tasks, their definitions, the random strings of the
``t2l-random`` system, and with ``--inputs N`` the N test inputs a task that
``training.evaluate --limit N`` draws.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from t2l_router.errors import ConfigError
from training.corpus import Task, load_tasks
from training.sampling import sample
from training.systems import random_text

_DRAWS = 5  # random strings a task; more draws than any evaluation takes


class Encoder(Protocol):
    """Maps texts to task embeddings."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give ``[N, D]`` float32 rows of unit L2 norm."""
        ...


class StoredEmbeddings:
    """
    An encoder that knows a fixed set of texts.

    Args:
        path: A file that this module wrote.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "np") as file:
            self._rows: NDArray[np.float32] = file.get_tensor("embeddings").astype(np.float32)
            texts = json.loads(file.metadata()["texts"])
        self._index = {text: row for row, text in enumerate(texts)}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give the stored rows, ``[N, D]``."""
        try:
            return self._rows[[self._index[text] for text in texts]]
        except KeyError as error:
            raise ConfigError(f"no stored embedding of {error}") from None


class OneHotEncoder:
    """
    An encoder whose embeddings are one-hot: it knows which task a description belongs to.

    Args:
        order: The tasks that a one-hot hypernetwork was trained on, in their order.
        tasks: Hold the descriptions.
    """

    def __init__(self, order: Sequence[str], tasks: Sequence[Task]) -> None:
        rows = {name: row for row, name in enumerate(order)}
        self._width = len(order)
        self._index = {
            text: rows[task.name]
            for task in tasks
            if task.name in rows
            for text in (*task.descriptions, *task.terse_descriptions)
        }

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give unit vectors, ``[N, number of tasks]``."""
        missing = next((text for text in texts if text not in self._index), None)
        if missing is not None:
            raise ConfigError(f"one-hot embeddings know trained tasks only, not: {missing[:60]!r}")
        return np.eye(self._width, dtype=np.float32)[[self._index[text] for text in texts]]


def load_encoder(name: str, *, lora: Path | None = None) -> Encoder:
    """
    Load a task encoder by name or directory, or stored embeddings by their file.

    Args:
        name: A model to pull, a sentence-transformers directory, or a file of `main`.
        lora: What was trained of the encoder; stored embeddings have it in them already.
    """
    if Path(name).is_file():
        return StoredEmbeddings(Path(name))
    # Lazy: machines that train from stored embeddings have no sentence-transformers.
    from t2l_router.encoder import TaskEncoder  # noqa: PLC0415

    if not Path(name).is_dir():
        from t2l_router import models  # noqa: PLC0415
        from t2l_router.config import Settings  # noqa: PLC0415

        return TaskEncoder.load(models.pull(name, cache_dir=Settings().cache_dir), lora=lora)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    from t2l_router import encoder_lora  # noqa: PLC0415

    model = SentenceTransformer(name, local_files_only=True, trust_remote_code=False).float()
    if lora is not None:
        encoder_lora.merge(model, lora)
    # A directory's embeddings are compared with nothing else, so they need no identity.
    return TaskEncoder(model.eval(), fingerprint=f"directory {name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Embed every description of some splits into one file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--inputs", type=int, default=0, help="test inputs a task, too")
    parser.add_argument("--seed", type=int, default=0, help="of the evaluation's inputs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    tasks = load_tasks(args.corpus, args.splits.split(","))
    texts = {
        text
        for task in tasks
        for text in (*task.descriptions, *task.terse_descriptions, task.definition)
    }
    texts |= {random_text(task, seed) for task in tasks for seed in range(_DRAWS)}
    if args.inputs:
        for task in tasks:
            texts |= {example.text for example in sample(task, args.inputs, args.seed)[0]}
    ordered = sorted(texts)
    rows = load_encoder(args.encoder).embed(ordered)
    save_file(
        {"embeddings": rows.astype(np.float16)}, args.out, metadata={"texts": json.dumps(ordered)}
    )
    print(f"{args.out}: {len(ordered):,} texts")


if __name__ == "__main__":
    main()
