"""Pictures of tasks and adapters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from t2l_router.errors import ConfigError

try:
    from matplotlib.figure import Figure  # no pyplot: it would look for a screen
except ModuleNotFoundError as error:
    raise ConfigError(
        "plots need matplotlib: pip install '.[train]' in a checkout of t2l"
    ) from error

Array = NDArray[np.float32]
_NAMED = 9  # families that get a colour of their own; the rest is grey
_DPI = 90


def draw_maps(
    layers: Mapping[str, Array], families: Sequence[str], path: Path, *, seed: int
) -> None:
    """
    Draw one t-SNE map a layer, tasks coloured by family.

    Args:
        layers: Name -> ``[N, width]``.
        families: ``[N]``.
        path: The PNG file.
        seed: Of t-SNE.
    """
    named = [family for family, _ in Counter(families).most_common(_NAMED)]
    figure = Figure(figsize=(4 * len(layers), 4.6))
    axes = figure.subplots(1, len(layers))
    for axis, (title, rows) in zip(np.atleast_1d(axes), layers.items(), strict=True):
        perplexity = min(15, (len(rows) - 1) / 3)
        flat = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(rows)
        for i, family in enumerate([*named, None]):
            mine = [f == family if family else f not in named for f in families]
            colour = f"C{i}" if family else "lightgrey"
            axis.scatter(*flat[mine].T, s=14, color=colour, label=family or "other families")
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def draw_pairs(described: Array, pairs: Mapping[str, Array], path: Path) -> None:
    """
    Draw how alike adapters are over how alike their descriptions are.

    Args:
        described: ``[P]`` cosines of description embeddings, one a pair of tasks.
        pairs: Name of a measure -> ``[P]`` cosines of adapters.
        path: The PNG file.
    """
    figure = Figure(figsize=(4 * len(pairs), 3.4))
    axes = figure.subplots(1, len(pairs), sharex=True)
    for axis, (name, values) in zip(np.atleast_1d(axes), pairs.items(), strict=True):
        axis.hexbin(described, values, gridsize=45, bins="log", cmap="viridis", mincnt=1)
        axis.set_xlabel("cosine of descriptions")
        axis.set_ylabel(f"cosine of {name}, centred")
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def draw_scaling(
    points: Mapping[str, Sequence[tuple[int, float, float, float]]], path: Path, name: str
) -> None:
    """
    Draw scores over how much was trained on.

    Args:
        points: Split -> (number, score, lower end, upper end), in any order.
        path: The PNG file.
        name: What was counted.
    """
    figure = Figure(figsize=(5, 3.4))
    axis = figure.subplots()
    for i, (split, rows) in enumerate(sorted(points.items())):
        numbers, scores, low, high = map(np.array, zip(*sorted(rows), strict=True))
        axis.errorbar(
            numbers * 1.03**i,  # beside each other, so that no interval hides another
            scores,
            [scores - low, high - scores],
            label=split,
            marker="o",
            capsize=3,
        )
    axis.set_xscale("log", base=2)
    measured = sorted({number for rows in points.values() for number, *_ in rows})
    axis.set_xticks(measured, [str(number) for number in measured])
    axis.set_xlabel(name)
    axis.set_ylabel("ROUGE-L")
    axis.legend(fontsize=8, loc="lower center", frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
