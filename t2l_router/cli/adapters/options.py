"""Options that the verbs share, and how an adapter looks in a table."""

import dataclasses
import datetime as dt
import functools
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from adapters_store import AdapterRecord
from adapters_store.names import DEFAULT_TENANT
from t2l_router import storage
from t2l_router.cli import options
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Column, Output, age, size
from t2l_router.config import Settings
from t2l_router.examples import headline
from t2l_router.remote import RemoteStore

R = TypeVar("R")

_SHORT_ID = len("t2l-") + 8


def library_option(verb: Callable[..., R]) -> Callable[..., R]:
    """Give a verb the option ``--data-dir`` and an argument ``store``, closed afterwards."""

    @settings_options("data_dir")
    @functools.wraps(verb)
    def with_library(*args: Any, settings: Settings, **kwargs: Any) -> R:
        with storage.open_library(settings, actor=storage.operator()) as store:
            return verb(*args, store=store, **kwargs)

    return with_library


def library_or_server_option(verb: Callable[..., R]) -> Callable[..., R]:
    """Give a verb ``--data-dir``, ``--server`` and an argument ``store``: the library of either."""

    @settings_options("data_dir")
    @server_option
    @functools.wraps(verb)
    def with_either(*args: Any, settings: Settings, server: str | None, **kwargs: Any) -> R:
        if server is None:
            with storage.open_library(settings, actor=storage.operator()) as store:
                return verb(*args, store=store, **kwargs)
        with open_server(settings, server) as remote:
            return verb(*args, store=remote, **kwargs)

    return with_either


server_option = options.server_option("Of this server, by its admin API; T2L_API_KEY is the key.")


def open_server(settings: Settings, url: str) -> RemoteStore:
    """The library of a server; close it when done."""
    return RemoteStore(url, settings.api_key.get_secret_value() if settings.api_key else None)


def _tenant(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    # A server knows by the key whose adapters are meant.
    return value or (None if ctx.params.get("server") else DEFAULT_TENANT)


tenant_option = click.option(
    "--tenant",
    "-t",
    callback=_tenant,
    help=f"Whose adapters.  [default: {DEFAULT_TENANT}; with --server the key's tenant]",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would happen; change nothing."
)


def whole_number(text: str, option: str) -> int:
    """
    Read the number that an option was given.

    Raises:
        BadParameter: It is none.
    """
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is no whole number", param_hint=f"'--{option}'")
    return int(text)


def fields(record: AdapterRecord) -> dict[str, object]:
    """An adapter as JSON shows it: flat, the id first."""
    values = dataclasses.asdict(record)
    lineage = values.pop("lineage")
    return {"id": values.pop("id"), **values, **lineage}


NO_ADAPTERS = "No adapters; chats with a task write them, and so does: t2l adapters create TASK"


def show_adapters(
    out: Output, records: Iterable[AdapterRecord], *, nothing: str | None = None
) -> None:
    """Print adapters as a table; *nothing* is as for `Output.table`."""
    rows = [fields(record) for record in records]
    out.table(rows, [*columns(out), _age_column()], nothing=nothing)


def columns(out: Output) -> list[Column]:
    """The columns of every table of adapters; scripts get whole ids."""

    def short(adapter_id: object) -> str:
        return str(adapter_id)[:_SHORT_ID] if out.is_human else str(adapter_id)

    def description(text: object) -> str:
        line = " ".join(str(text).split())
        if out.is_human:
            line = headline(line)
        if not out.is_human or len(line) <= width:
            return line
        return f"{line[: width - 1]}…"

    # What the other columns leave; a terminal may be wider than 80.
    width = max(20, (shutil.get_terminal_size().columns if sys.stdout.isatty() else 80) - 57)
    return [
        Column("id", "id", short),
        Column("description", "description", description),
        Column("tenant", "tenant"),
        Column("state", "state"),
        Column("hits", "hits", right=True),
        Column("size_bytes", "size", size, right=True),
    ]


def ago(moment: dt.datetime | None) -> str:
    """How long ago, or ``never``."""
    return "never" if moment is None else age(moment, dt.datetime.now(dt.UTC))


def _age_column() -> Column:
    return Column("created_at", "age", ago, right=True)
