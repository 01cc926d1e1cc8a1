"""``t2l db``: the library's database: schema, backup, restore."""

from pathlib import Path

import click

from adapters_store import AdapterStore, backup
from adapters_store.database import SCHEMA_HEAD, Database
from t2l_router.cli.adapters.options import library_option
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Output, output_option, size
from t2l_router.config import Settings
from t2l_router.storage import library_config, operator


@click.group()
def command() -> None:
    """Migrate, back up and restore the library's database."""


@command.command()
@settings_options("data_dir")
@output_option
def status(*, settings: Settings, out: Output) -> None:
    """Show the schema's version and the one that this t2l needs."""
    database = _database(settings)
    try:
        version = database.schema_version()
    finally:
        database.close()
    out.record(
        {
            "database": database.url.render_as_string(hide_password=True),
            "schema": version,
            "needed": SCHEMA_HEAD,
            "is_current": version == SCHEMA_HEAD,
        }
    )


@command.command(short_help="Bring the schema to the version that t2l needs.")
@settings_options("data_dir")
@output_option
def migrate(*, settings: Settings, out: Output) -> None:
    """Bring the schema to the version that this t2l needs; make a backup first."""
    database = _database(settings)
    try:
        before = database.schema_version()
        database.migrate()
    finally:
        database.close()
    out.record({"schema": SCHEMA_HEAD, "before": before})


@command.command("backup", short_help="Copy the library as of now into a new directory.")
@click.argument("destination", type=click.Path(path_type=Path))
@output_option
@library_option
def backup_(*, store: AdapterStore, out: Output, destination: Path) -> None:
    """Copy the library as of now, while it is used, into a new directory."""
    copied = backup.backup(store.ledger, destination)
    out.record({"path": destination.absolute(), "adapters": copied.adapters})
    out.note(f"Copied {copied.adapters} adapters ({size(copied.size_bytes)}).")


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@library_option
def restore(*, store: AdapterStore, out: Output, source: Path) -> None:
    """Fill an empty library from a backup."""
    copied = backup.restore(store.ledger, source)
    out.record({"path": source.absolute(), "adapters": copied.adapters})
    out.note(f"Restored {copied.adapters} adapters ({size(copied.size_bytes)}).")


def _database(settings: Settings) -> Database:
    return Database(library_config(settings, actor=operator()).database_url)
