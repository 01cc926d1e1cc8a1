"""The curve that thresholds are chosen from, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from t2l_router.errors import ConfigError
from training.reuse_curve import Rates

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ConfigError(
        "plots need matplotlib: pip install '.[train]' in a checkout of t2l"
    ) from error

_STYLES = ("o", "s", "^", "D")


def draw(
    curves: Mapping[str, Sequence[Rates]], chosen: Mapping[str, Rates], path: Path, *, target: float
) -> None:
    """
    Plot hit rate over the bound of the wrong-reuse rate.

    Args:
        curves: Name -> the rates of one rule at every threshold.
        chosen: Name -> single points.
        path: Where the PNG goes.
        target: Drawn as a line.
    """
    # No `pyplot`: it would look for a screen.
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "t2l"}):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        for name, points in curves.items():
            front = _front(points)
            axes.plot(
                [100 * rates.bound for rates in front],
                [100 * rates.hit_rate for rates in front],
                label=name,
            )
        for (name, rates), style in zip(chosen.items(), _STYLES, strict=False):
            axes.plot(100 * rates.bound, 100 * rates.hit_rate, style, label=name, color="black")
        axes.axvline(100 * target, color="grey", linestyle=":", label=f"target {target:.0%}")
        axes.set_xscale("log")
        axes.set_xlabel("wrong among reuses, upper 95 % bound (%)")
        axes.set_ylabel("paraphrases for which an adapter is reused (%)")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _front(points: Sequence[Rates]) -> list[Rates]:
    """The points that no other beats in both rates."""
    front: list[Rates] = []
    for rates in sorted(points, key=lambda rates: (rates.bound, -rates.hit_rate)):
        if rates.n and (not front or rates.hit_rate > front[-1].hit_rate):
            front.append(rates)
    return front
