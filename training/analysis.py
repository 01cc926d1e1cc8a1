"""
What a hypernetwork makes of descriptions: task encodings, activations and adapters.

    python -m training.analysis --corpus DIR --splits validation,heldout_unseen_family \
        --checkpoint default --images docs/img --json tests/bench/results/analysis--cpu.json

Draws t-SNE maps of the tasks' descriptions as the encoder, the hypernetwork's task encoder and its
last MLP see them, and compares how alike adapters are with how alike descriptions are.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from t2l_router import checkpoint
from t2l_router.errors import ConfigError, T2LError
from t2l_router.hypernet import Hypernet
from training.analysis_plot import draw_maps, draw_pairs
from training.corpus import Task, load_tasks
from training.embeddings import load_encoder
from training.evaluate import command_line

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """
    Descriptions as three parts of the hypernetwork see them.

    Args:
        embedding: ``[N, D]`` what the task encoder model gave.
        encoding: ``[N, width / 2]`` after the hypernetwork's own task encoder.
        activation: ``[N, L * M * head_in]`` after the last MLP, all layers and modules.
    """

    embedding: Array
    encoding: Array
    activation: Array


@torch.no_grad()
def look(hypernet: Hypernet, embeddings: Array) -> tuple[Seen, Array, Array]:
    """
    Run the hypernetwork and keep what passes through it.

    Args:
        hypernet: In evaluation mode, on the CPU.
        embeddings: ``[N, D]`` unit rows.

    Returns:
        What it saw, and two ``[N, N]`` tables of inner products of the adapters: of the entries of
        A and B, and of delta-W.
    """
    kept: dict[str, list[Tensor]] = {"task": [], "mlp3": []}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda _module, _inputs, output: kept[name].append(output.flatten(1))

    hooks = [getattr(hypernet, name).register_forward_hook(keep(name)) for name in kept]
    parts = [
        hypernet(torch.from_numpy(rows)) for rows in np.array_split(embeddings, 8) if len(rows)
    ]
    for hook in hooks:
        hook.remove()
    entries = delta = torch.zeros(len(embeddings), len(embeddings))
    for module in hypernet.config.lora.modules:
        a = torch.cat([pairs[module.name].lora_A for pairs in parts])
        b = torch.cat([pairs[module.name].lora_B for pairs in parts])
        for side in (a.flatten(1), b.flatten(1)):
            entries = entries + side @ side.T
        for layer in range(hypernet.config.lora.n_layers):
            # <Bi Ai, Bj Aj> of one layer as one product of flattened delta-W.
            full = (b[:, layer] @ a[:, layer]).flatten(1)
            delta = delta + full @ full.T
    seen = Seen(embeddings, torch.cat(kept["task"]).numpy(), torch.cat(kept["mlp3"]).numpy())
    return seen, entries.numpy(), delta.numpy()


def cosines(products: Array, *, centred: bool) -> Array:
    """
    Turn inner products into cosines.

    Args:
        products: ``[N, N]``.
        centred: Of the differences from the mean: adapters share a large learned mean, and it is
            the rest that differs between tasks.
    """
    if centred:
        products = (
            products - products.mean(0, keepdims=True) - products.mean(1, keepdims=True)
            + products.mean()
        )  # fmt: skip
    size = np.sqrt(np.clip(np.diag(products), 1e-12, None))
    cosine: Array = products / np.outer(size, size)
    return cosine


def same_family_neighbours(rows: Array, families: Sequence[str]) -> float:
    """Share of tasks, of families with two or more, whose nearest other task is of their family."""
    unit = rows - rows.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    names = np.array(families)
    counted = np.array([np.sum(names == name) > 1 for name in names])
    return float(np.mean((names[alike.argmax(1)] == names)[counted])) if counted.any() else 0.0


def analyse(args: argparse.Namespace) -> dict[str, object]:
    """Measure, draw, and give the figures."""
    tasks = load_tasks(args.corpus, args.splits.split(","))
    hypernet = checkpoint.from_pretrained(args.checkpoint)
    if not isinstance(hypernet, Hypernet):
        raise ConfigError(f"{args.checkpoint} reads tokens; only embeddings are analysed")
    texts = [task.descriptions[0] for task in tasks]
    embeddings = load_encoder(args.encoder or hypernet.config.encoder).embed(texts)
    seen, entries, delta = look(hypernet, embeddings)
    above = np.triu_indices(len(tasks), 1)
    described = cosines(embeddings @ embeddings.T, centred=False)[above]
    pairs = {
        "entries of A and B": cosines(entries, centred=True)[above],
        "delta-W": cosines(delta, centred=True)[above],
    }
    families = [task.family for task in tasks]
    args.images.mkdir(parents=True, exist_ok=True)
    layers = {
        "description embedding": seen.embedding,
        "task encoder": seen.encoding,
        "last MLP": seen.activation,
    }
    draw_maps(layers, families, args.images / "tsne.png", seed=args.seed)
    draw_pairs(described, pairs, args.images / "similarity.png")
    return {
        "run": {"command": command_line("training.analysis", args)},
        "setup": {
            "splits": args.splits,
            "tasks": len(tasks),
            "hypernet_id": checkpoint.hypernet_id(args.checkpoint),
            "seed": args.seed,
        },
        "metrics": {
            "spearman_with_description_cosine": {
                name: float(spearmanr(described, values).statistic)
                for name, values in pairs.items()
            },
            "same_family_neighbour": {
                name: same_family_neighbours(rows, families) for name, rows in layers.items()
            },
            "same_family_by_chance": by_chance(tasks),
            "delta_w_cosine_uncentred_mean": float(cosines(delta, centred=False)[above].mean()),
        },
    }


def by_chance(tasks: Sequence[Task]) -> float:
    """What `same_family_neighbours` gives for a random neighbour."""
    names = [task.family for task in tasks]
    sizes = [names.count(name) for name in names if names.count(name) > 1]
    return float(np.mean([(size - 1) / (len(names) - 1) for size in sizes])) if sizes else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.analysis", description="Look into a hypernetwork."
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--splits", default="validation,heldout_seen_family,heldout_unseen_family")
    parser.add_argument("--checkpoint", default=checkpoint.SENTENCES)
    parser.add_argument("--encoder", default="", help="name, or a file of stored embeddings")
    parser.add_argument("--images", type=Path, default=Path("docs/img"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    try:
        results = analyse(args)
    except T2LError as error:
        sys.exit(f"training.analysis: {error}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["metrics"], indent=1))


if __name__ == "__main__":
    main()
