"""Verbs that change one adapter: rm, undelete, alias, tag, pin, unpin, approve, promote."""

import dataclasses
import datetime as dt
from collections.abc import Callable

import click

from adapters_store import AdapterStore
from adapters_store.errors import AdapterNotFound
from adapters_store.filters import parse_size
from adapters_store.quotas import Quota
from adapters_store.records import State
from t2l_router.cli.adapters.options import (
    dry_run_option,
    fields,
    library_or_server_option,
    show_adapters,
    tenant_option,
    whole_number,
)
from t2l_router.cli.output import Column, Output, output_option


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--ignore-missing", is_flag=True, help="A REF that fits nothing is no error.")
@dry_run_option
@tenant_option
@output_option
@library_or_server_option
def rm(
    *,
    store: AdapterStore,
    out: Output,
    refs: tuple[str, ...],
    ignore_missing: bool,
    dry_run: bool,
    tenant: str,
) -> None:
    """
    Take adapters out of service and end their aliases.

    undelete brings them back until prune frees their space.
    """
    found = []
    for ref in refs:
        try:
            found.append(store.get(ref, tenant=tenant))
        except AdapterNotFound:
            if not ignore_missing:
                raise
    store.check_removable([record.id for record in found], tenant=tenant)
    if not dry_run:
        for record in found:
            ended = store.delete(record.id, tenant=tenant)
            if ended:
                out.note(f"{record.id}: ended the aliases {', '.join(ended)}")
    show_adapters(out, found)
    out.note(f"{'Would remove' if dry_run else 'Removed'} {len(found)}.")


@click.command()
@click.argument("ref")
@tenant_option
@output_option
@library_or_server_option
def undelete(*, store: AdapterStore, out: Output, ref: str, tenant: str) -> None:
    """Bring a removed adapter back; its aliases stay ended."""
    record = store.undelete(ref, tenant=tenant)
    out.done(fields(record), f"{record.id} is back, as {record.state}.")


@click.group()
def alias() -> None:
    """Give adapters names that may move to another adapter later."""


_SPAN_COLUMNS = [
    Column("name", "name"),
    Column("adapter_id", "adapter"),
    Column("tenant", "tenant"),
    Column("since", "since", lambda moment: f"{moment:%F %H:%M}"),
    Column("until", "until", lambda moment: "-" if moment is None else f"{moment:%F %H:%M}"),
]


@alias.command("set")
@click.argument("name")
@click.argument("ref")
@click.option("--move", is_flag=True, help="Take the name away from another adapter.")
@tenant_option
@output_option
@library_or_server_option
def alias_set(
    *, store: AdapterStore, out: Output, name: str, ref: str, move: bool, tenant: str
) -> None:
    """Let NAME stand for the adapter REF."""
    span = store.aliases.set(name, ref, tenant=tenant, move=move)
    out.record(dataclasses.asdict(span))


@alias.command("rm")
@click.argument("name")
@dry_run_option
@tenant_option
@output_option
@library_or_server_option
def alias_rm(*, store: AdapterStore, out: Output, name: str, dry_run: bool, tenant: str) -> None:
    """End the alias NAME; the adapter stays."""
    remove = store.aliases.get if dry_run else store.aliases.remove
    out.record(dataclasses.asdict(remove(name, tenant=tenant)))


@alias.command("list")
@click.option("--tenant", "-t", help="Of this tenant only.  [default: all]")
@output_option
@library_or_server_option
def alias_list(*, store: AdapterStore, out: Output, tenant: str | None) -> None:
    """List the aliases and what they name now."""
    spans = store.aliases.current(tenant=tenant)
    nothing = "No aliases; give one with: t2l adapters alias set NAME REF"
    out.table([dataclasses.asdict(span) for span in spans], _SPAN_COLUMNS, nothing=nothing)


@alias.command("history")
@click.argument("name")
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]),
    help="Only what it named at this time (UTC).",
)
@tenant_option
@output_option
@library_or_server_option
def alias_history(
    *, store: AdapterStore, out: Output, name: str, at: dt.datetime | None, tenant: str
) -> None:
    """Show what the alias NAME has stood for, the newest first."""
    if at is None:
        spans = store.aliases.history(name, tenant=tenant)
    else:
        spans = [store.aliases.at(name, at.replace(tzinfo=dt.UTC), tenant=tenant)]
    out.table([dataclasses.asdict(span) for span in spans], _SPAN_COLUMNS)


@click.command()
@click.argument("ref")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--remove", is_flag=True, help="Take the tags away instead.")
@tenant_option
@output_option
@library_or_server_option
def tag(
    *, store: AdapterStore, out: Output, ref: str, tags: tuple[str, ...], remove: bool, tenant: str
) -> None:
    """Add tags to an adapter."""
    change = {"remove": tags} if remove else {"add": tags}
    record = store.tag(ref, tenant=tenant, **change)
    out.done(fields(record), f"{record.id} has the tags: {', '.join(record.tags) or 'none'}.")


@click.command()
@click.argument("ref")
@tenant_option
@output_option
@library_or_server_option
def pin(*, store: AdapterStore, out: Output, ref: str, tenant: str) -> None:
    """Protect an adapter from every kind of removal."""
    record = store.pin(ref, tenant=tenant)
    out.done(fields(record), f"{record.id} is pinned.")


@click.command()
@click.argument("ref")
@tenant_option
@output_option
@library_or_server_option
def unpin(*, store: AdapterStore, out: Output, ref: str, tenant: str) -> None:
    """End an adapter's protection."""
    record = store.pin(ref, tenant=tenant, pinned=False)
    out.done(fields(record), f"{record.id} is no longer pinned.")


@click.command()
@click.argument("ref")
@click.argument("state", type=click.Choice(["generated", "approved", "quarantined"]))
@tenant_option
@output_option
@library_or_server_option
def judge(*, store: AdapterStore, out: Output, ref: str, state: State, tenant: str) -> None:
    """Approve an adapter, put it into quarantine, or take that back."""
    record = store.set_state(ref, state, tenant=tenant)
    out.done(fields(record), f"{record.id} is {record.state}.")


@click.command()
@click.argument("ref")
@tenant_option
@output_option
@library_or_server_option
def promote(*, store: AdapterStore, out: Output, ref: str, tenant: str) -> None:
    """Give an adapter of the tenant to every tenant (tenant "shared")."""
    record = store.promote(ref, tenant=tenant)
    out.done(fields(record), f"{record.id} is every tenant's.")


@click.command()
@click.option("--max-size", help="Bytes of all adapters, e.g. 10GB; none for no limit.")
@click.option("--max-adapters", help="Number of adapters; none for no limit.")
@click.option("--max-per-hour", help="Generated adapters in 60 minutes; none for no limit.")
@tenant_option
@output_option
@library_or_server_option
def quota(
    *,
    store: AdapterStore,
    out: Output,
    max_size: str | None,
    max_adapters: str | None,
    max_per_hour: str | None,
    tenant: str,
) -> None:
    """Show or set how much a tenant may keep and generate."""
    limits = store.quotas.get(tenant)
    new = Quota(
        max_bytes=_limit(max_size, limits.max_bytes, parse_size),
        max_adapters=_limit(
            max_adapters, limits.max_adapters, lambda text: whole_number(text, "max-adapters")
        ),
        max_generations_per_hour=_limit(
            max_per_hour,
            limits.max_generations_per_hour,
            lambda text: whole_number(text, "max-per-hour"),
        ),
    )
    if new != limits:
        store.quotas.set(tenant, new)
    out.record(
        {
            "tenant": tenant,
            **dataclasses.asdict(new),
            **{f"used_{k}": v for k, v in dataclasses.asdict(store.quotas.usage(tenant)).items()},
        }
    )


def _limit(given: str | None, current: int | None, parse: Callable[[str], int]) -> int | None:
    if given is None:
        return current
    return None if given == "none" else parse(given)


VERBS = (rm, undelete, alias, tag, pin, unpin, judge, promote, quota)
