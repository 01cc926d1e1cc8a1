"""``t2l stats``: how requests were served, and how people liked it."""

import dataclasses

import click

from adapters_store import AdapterStore
from adapters_store.filters import parse_age
from t2l_router.cli.adapters.options import library_option
from t2l_router.cli.output import Column, Output, output_option

_HELD = ("exact", "reused", "verified", "sticky", "explicit")


@click.command()
@click.option("--tenant", "-t", help="Of one tenant; by default of all.")
@click.option("--since", default="30d", show_default=True, help="How far back, e.g. 12h or 7d.")
@click.option("--top", default=10, show_default=True, help="Adapters, the most rated first.")
@click.option("--recent", type=click.IntRange(1), help="List the last decisions instead.")
@output_option
@library_option
def command(
    *,
    store: AdapterStore,
    out: Output,
    tenant: str | None,
    since: str,
    top: int,
    recent: int | None,
) -> None:
    """
    Show how requests were served: decisions by kind, and win rates of adapters.

    A win rate is the share of good ratings among the rated answers, with its 95 % interval; see
    POST /v1/t2l/feedback.
    """
    if recent is not None:
        entries = store.decisions.newest(tenant=tenant, limit=recent)
        out.table(
            [dataclasses.asdict(entry) for entry in entries],
            [
                Column("trace", "trace", lambda trace: str(trace)[: 12 if out.is_human else None]),
                Column("tenant", "tenant"),
                Column("kind", "decision"),
                Column("adapter_id", "adapter", lambda value: str(value or "base")[:12]),
                Column("score", "score", _rounded, right=True),
                Column("distance", "distance", _rounded, right=True),
                Column("detail", "reason", lambda detail: str(detail.get("reason", ""))),
            ],
            nothing="No decisions yet; each request to `t2l serve` leaves one.",
        )
        return
    stats = store.decisions.stats(tenant=tenant, since=parse_age(since), top=top)
    held = sum(stats.by_kind.get(kind, 0) for kind in _HELD)
    summary = {
        "decisions": stats.total,
        **{kind: stats.by_kind[kind] for kind in sorted(stats.by_kind)},
        "descriptions": stats.descriptions,
        "served_by_held_adapter": round(held / stats.total, 4) if stats.total else None,
    }
    if out.style == "json":
        out.json({**summary, "win_rates": [dataclasses.asdict(rate) for rate in stats.win_rates]})
        return
    out.record(summary)
    if stats.win_rates:
        out.table(
            [dataclasses.asdict(rate) for rate in stats.win_rates],
            [
                Column("adapter_id", "adapter", lambda value: str(value or "base")),
                Column("wins", "good", right=True),
                Column("n", "rated", right=True),
                Column("low", "from", lambda value: f"{value:.1%}", right=True),
                Column("high", "to", lambda value: f"{value:.1%}", right=True),
            ],
        )


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
