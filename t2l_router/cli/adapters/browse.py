"""Verbs that only look: list, show, stats, df, history."""

import dataclasses

import click

from adapters_store import AdapterStore
from adapters_store.filters import GRAMMAR
from t2l_router.cli.adapters.options import (
    NO_ADAPTERS,
    ago,
    fields,
    library_or_server_option,
    show_adapters,
    tenant_option,
)
from t2l_router.cli.output import Column, Output, output_option, size


@click.command("list")
@click.option("--filter", "-f", "filters", multiple=True, metavar="EXPR", help=f"{GRAMMAR}.")
@click.option("--tenant", "-t", help="Adapters that this tenant may use.  [default: everybody's]")
@click.option("--limit", "-n", type=click.IntRange(1), default=50, show_default=True)
@click.option("--all", "everything", is_flag=True, help="No limit.")
@output_option
@library_or_server_option
def list_(
    *,
    store: AdapterStore,
    out: Output,
    filters: tuple[str, ...],
    tenant: str | None,
    limit: int,
    everything: bool,
) -> None:
    """
    List adapters, the newest first.

    Filters of different keys must all hold, of one key any:

      t2l adapters list -f tag=mail -f "accessed>30d" -f "hits<5"
    """
    page = store.page(filters, tenant=tenant, limit=None if everything else limit)
    show_adapters(out, page, nothing="No adapter fits." if filters else NO_ADAPTERS)
    if len(page) == limit and not everything:
        out.note(f"The newest {limit}; --all shows all of them.")


@click.command()
@click.argument("ref")
@click.option("--deleted", is_flag=True, help="Look among the deleted adapters.")
@tenant_option
@output_option
@library_or_server_option
def show(*, store: AdapterStore, out: Output, ref: str, deleted: bool, tenant: str) -> None:
    """Show everything about one adapter."""
    record = store.get(ref, tenant=tenant, deleted=deleted)
    texts = [] if deleted else store.descriptions(record.id, tenant=tenant)
    out.record(fields(record) | {"descriptions": [text.text for text in texts]})


@click.command()
@click.option("--tenant", "-t", help="Of this tenant only.  [default: all]")
@click.option("--top", "-n", type=click.IntRange(0), default=5, show_default=True)
@output_option
@library_or_server_option
def stats(*, store: AdapterStore, out: Output, tenant: str | None, top: int) -> None:
    """Count adapters, descriptions and hits."""
    counts = store.reports.stats(tenant=tenant, top=top)
    out.record(
        {
            "adapters": sum(n for state, n in counts.by_state.items() if state != "deleted"),
            **dataclasses.asdict(counts),
            "top": [f"{record.id} ({record.hits})" for record in counts.top],
        }
    )


@click.command()
@output_option
@library_or_server_option
def df(*, store: AdapterStore, out: Output) -> None:
    """Show what each tenant's adapters take on the disk."""
    out.table(
        [dataclasses.asdict(space) for space in store.reports.space()],
        [
            Column("tenant", "tenant"),
            Column("adapters", "adapters", right=True),
            Column("size_bytes", "size", size, right=True),
            Column("pinned_bytes", "pinned", size, right=True),
            Column("reclaimable_bytes", "reclaimable", size, right=True),
        ],
        nothing=NO_ADAPTERS,
    )


@click.command()
@click.argument("ref", required=False)
@click.option("--deleted", is_flag=True, help="Look among the deleted adapters.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True)
@tenant_option
@output_option
@library_or_server_option
def history(
    *, store: AdapterStore, out: Output, ref: str | None, deleted: bool, limit: int, tenant: str
) -> None:
    """
    Show who did what, the newest first.

    To one adapter, or without REF to any of the tenant.
    """
    subject = None if ref is None else store.get(ref, tenant=tenant, deleted=deleted).id
    entries = store.history(subject, tenant=tenant, limit=limit)
    out.table(
        [dataclasses.asdict(entry) for entry in entries],
        [
            Column("seq", "seq", right=True),
            Column("action", "action"),
            Column("subject", "subject"),
            Column("actor", "actor"),
            Column("at", "age", ago, right=True),
        ],
        nothing="Nothing has been changed yet.",
    )


VERBS = (list_, show, stats, df, history)
