"""What a calibration found, for machines and for people."""

import dataclasses
import math
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.table import Table

from t2l_router.policy import Thresholds
from training.reuse_curve import Rates, least_n
from training.reuse_losses import OTHER_TASK, PARAPHRASE, Comparison, noise
from training.reuse_outcome import COSINE, Outcome

Row = dict[str, object]


def document(
    outcome: Outcome,
    comparisons: Sequence[Comparison],
    *,
    target: float,
    guard: Row,
    facts: Row,
    began: float,
) -> Row:
    """Put everything that was found, and how, into one JSON document."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whatever git the user has
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "run": {
            "command": "python -m training.calibrate",
            "commit": commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
        },
        "setup": facts | {"target": target, "least_n": least_n(target)},
        "thresholds": {
            key: _finite(value) for key, value in dataclasses.asdict(outcome.thresholds).items()
        },
        "cosine": _finite(outcome.cosine),
        "losses": _losses(comparisons) if comparisons else {},
        "comparisons": [dataclasses.asdict(each) for each in comparisons],
        "guard": guard,
        "metrics": {
            str(n): {part: {k: _row(r) for k, r in rules.items()} for part, rules in parts.items()}
            for n, parts in outcome.rates.items()
        },
        "curves": {
            str(n): {
                name: [{"score": t.score, "margin": t.margin, **_row(r)} for t, r in coarse(points)]
                for name, points in curves.items()
            }
            for n, curves in outcome.curves.items()
        },
    }


def refusal(target: float) -> str:
    """Say that the data carry no bound."""
    return (
        f"No score and margin keep the bound of wrong reuse within {target:.1%} (it takes at least "
        f"{least_n(target)} reuses, all of them right): adapters are reused for equal texts and "
        "after a comparison only."
    )


def coarse(points: Sequence[tuple[Thresholds, Rates]]) -> list[tuple[Thresholds, Rates]]:
    """Keep the points whose score and margin are whole tenths: enough to read."""
    return [
        (t, found)
        for t, found in points
        if math.isclose(10 * t.score, round(10 * t.score))
        and math.isclose(10 * t.margin, round(10 * t.margin), abs_tol=1e-9)
    ]


def grid_table(outcome: Outcome) -> Table:
    """Show what each score and margin does, without comparing adapters."""
    shown = Table("ALIASES", "SCORE", "MARGIN", "REUSED", "WRONG", "BOUND", "N", box=None)
    for n, curves in outcome.curves.items():
        for t, found in coarse(curves["score, margin, guard"]):
            if found.n:
                shown.add_row(str(n), f"{t.score:.1f}", f"{t.margin:.1f}", *_shares(found))
    return shown


def _shares(found: Rates) -> tuple[str, ...]:
    return (
        f"{found.hit_rate:.1%}",
        f"{found.wrong_rate:.2%}",
        f"{found.bound:.2%}",
        str(found.n),
    )


def _finite(value: object) -> object:
    """JSON has no infinity: a threshold that nothing reaches is null."""
    return None if value == math.inf else value


def _row(found: Rates) -> Row:
    return {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(found).items()
    }


def _losses(comparisons: Sequence[Comparison]) -> Row:
    limit = noise(comparisons)
    base = float(np.median([c.base_excess for c in comparisons]))
    rows: Row = {"noise": round(limit, 4), "median_gain_over_base": round(base, 3)}
    for kind in (PARAPHRASE, OTHER_TASK):
        for low in (0.0, 0.3, 0.4, 0.5, 0.6):
            high = 2.0 if low == 0.6 else max(0.3, low + 0.1)  # noqa: PLR2004
            excess = [c.excess for c in comparisons if c.kind == kind and low <= c.distance < high]
            if excess:
                rows[f"{kind}, distance {low:.1f} to {high:.1f}"] = {
                    "n": len(excess),
                    "mean_excess": round(float(np.mean(excess)), 4),
                    "mean_difference": round(float(np.mean(np.abs(excess))), 4),
                    "above_noise": sum(each > limit for each in excess),
                }
    return rows


def rows(outcome: Outcome) -> list[Row]:
    """List what the rules do to tasks they weren't chosen on."""
    return [
        {
            "aliases": n,
            "tasks": part,
            "rule": name,
            "reused": found.hit_rate,
            "wrong": found.wrong_rate,
            "bound": found.bound,
            "n": found.n,
        }
        for n, parts in outcome.rates.items()
        for part in ("check", "heldout")
        for name, found in parts[part].items()
    ]


def table(outcome: Outcome) -> Table:
    """Show `rows`."""
    shown = Table("ALIASES", "TASKS", "RULE", "REUSED", "WRONG", "BOUND", "N", box=None)
    for n, parts in outcome.rates.items():
        for part in ("check", "heldout"):
            for name, found in parts[part].items():
                shown.add_row(str(n), part, name, *_shares(found))
    return shown


def plot(outcome: Outcome, path: Path, *, target: float) -> None:
    """Draw every rule of every library into one PNG."""
    # Lazy: matplotlib comes with t2l[train] only.
    from training.reuse_plot import draw  # noqa: PLC0415

    curves = {
        f"{name}, {n} aliases": [found for _, found in points]
        for n, found in outcome.curves.items()
        for name, points in found.items()
    }
    points = {
        f"{name}, {n} aliases": found["check"][name]
        for n, found in outcome.rates.items()
        for name in ("near or verified", f"cosine {COSINE}")
    }
    draw(curves, points, path, target=target)
