"""Verbs that move adapters in and out: export, import, push, pull."""

from pathlib import Path

import click

from adapters_store import AdapterStore, transfer
from t2l_router.cli.adapters.options import library_or_server_option, tenant_option
from t2l_router.cli.output import Output, output_option


@click.command("export")
@click.argument("ref")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="A directory, or a .zip file.  [the id]"
)
@tenant_option
@output_option
@library_or_server_option
def export(*, store: AdapterStore, out: Output, ref: str, output: Path | None, tenant: str) -> None:
    """Write an adapter as PEFT, vLLM and import read it."""
    record = store.get(ref, tenant=tenant)
    destination = output or Path(record.id)
    contents = store.export(record.id, tenant=tenant)
    write = transfer.write_zip if destination.suffix == ".zip" else transfer.write_directory
    write(contents, destination)
    out.record({"path": destination, "id": record.id, "files": sorted(contents)})


@click.command()
@click.argument("ref")
@click.argument("url")
@tenant_option
@output_option
@library_or_server_option
def push(*, store: AdapterStore, out: Output, ref: str, url: str, tenant: str) -> None:
    """
    Write an adapter below a URL.

    Any that fsspec knows: s3://BUCKET/PATH, hf://OWNER/REPOSITORY, ...
    """
    record = store.get(ref, tenant=tenant)
    transfer.push(store.export(record.id, tenant=tenant), url, options={})
    out.record({"url": url, "id": record.id})


VERBS = (export, push)
