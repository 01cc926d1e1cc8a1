"""``t2l keys``: who may come in, and how much each tenant may use."""

import dataclasses
import datetime as dt

import click

from adapters_store import AdapterStore
from adapters_store.keys import SCOPES, ApiKey, Scope
from t2l_router.cli.adapters.options import ago, library_or_server_option, whole_number
from t2l_router.cli.output import Column, Output, output_option


@click.group()
def command() -> None:
    """
    Make and revoke API keys; limit what tenants may use.

    A key's tenant decides whose adapters serve. As soon as there is one key, every request needs
    one.
    """


@command.command()
@click.argument("tenant")
@click.option("--name", default="", help="Whose key it is, for people.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("chat",),
    show_default=True,
    help="What it may do; may be given twice.",
)
@click.option(
    "--expires", "days", type=click.FloatRange(0, min_open=True), help="After this many days."
)
@output_option
@library_or_server_option
def create(
    *,
    store: AdapterStore,
    out: Output,
    tenant: str,
    name: str,
    scopes: tuple[Scope, ...],
    days: float | None,
) -> None:
    """Make a key for TENANT and print it; it can't be shown again."""
    expires_at = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    key, secret = store.keys.create(tenant, name=name, scopes=scopes, expires_at=expires_at)
    out.record({"key": secret, **fields(key)})
    out.note("Keep the key: only its hash is stored.")


@command.command("list")
@click.option("--tenant", "-t", help="Of this tenant only.  [default: all]")
@click.option("--all", "everything", is_flag=True, help="Also those that open nothing any more.")
@output_option
@library_or_server_option
def list_(*, store: AdapterStore, out: Output, tenant: str | None, everything: bool) -> None:
    """List the keys, the newest first; secrets are not kept."""
    rows = [fields(key) for key in store.keys.list(tenant=tenant)]
    shown = [row for row in rows if everything or row["state"] == "active"]
    nothing = "No keys; make one with: t2l keys create TENANT"
    show_keys(out, shown, nothing="No key opens anything; --all shows them." if rows else nothing)


@command.command(short_help="Let the key KEY_ID open nothing any more.")
@click.argument("key_id")
@output_option
@library_or_server_option
def revoke(*, store: AdapterStore, out: Output, key_id: str) -> None:
    """Let the key KEY_ID open nothing any more; servers know within seconds."""
    out.record(fields(store.keys.revoke(key_id)))


@command.command(short_help="Show or set how fast TENANT may ask.")
@click.argument("tenant")
@click.option("--requests-per-minute", help="A number, or `default` for the server's.")
@click.option("--tokens-per-minute", help="Tokens read and written; or `default`.")
@click.option("--tokens-per-day", help="Between midnight and midnight UTC; or `default`.")
@output_option
@library_or_server_option
def limits(*, store: AdapterStore, out: Output, tenant: str, **given: str | None) -> None:
    """Show or set how fast TENANT may ask; requests above a limit get a 429."""
    before = store.spending.limit_of(tenant)
    changes = {
        name: None if text == "default" else whole_number(text, name.replace("_", "-"))
        for name, text in given.items()
        if text is not None
    }
    after = dataclasses.replace(before, **changes)
    if after != before:
        store.spending.limit(tenant, after)
    out.record({"tenant": tenant, **dataclasses.asdict(after)})


@command.command()
@click.option("--tenant", "-t", help="Of this tenant only.  [default: all]")
@click.option("--days", type=click.IntRange(1), default=7, show_default=True)
@output_option
@library_or_server_option
def usage(*, store: AdapterStore, out: Output, tenant: str | None, days: int) -> None:
    """Show what tenants used, by day (UTC)."""
    out.table(
        [
            {"day": use.day, "tenant": use.tenant, **dataclasses.asdict(use.spent)}
            for use in store.spending.days(days, tenant=tenant)
        ],
        [
            Column("day", "day"),
            Column("tenant", "tenant"),
            Column("requests", "requests", right=True),
            Column("prompt_tokens", "read", right=True),
            Column("completion_tokens", "written", right=True),
        ],
        nothing=f"No requests in the last {days} days.",
    )


def fields(key: ApiKey) -> dict[str, object]:
    """A key as JSON shows it."""
    state = "active"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= dt.datetime.now(dt.UTC):
        state = "expired"
    return {**dataclasses.asdict(key), "state": state}


def show_keys(out: Output, rows: list[dict[str, object]], *, nothing: str) -> None:
    """Print keys as a table; *nothing* is as for `Output.table`."""
    out.table(
        rows,
        [
            Column("id", "id"),
            Column("tenant", "tenant"),
            Column("name", "name"),
            Column("scopes", "scopes", ",".join),
            Column("state", "state"),
            Column("last_used_at", "used", ago, right=True),
            Column("created_at", "age", ago, right=True),
        ],
        nothing=nothing,
    )
