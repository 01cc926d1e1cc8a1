"""Verbs that need the models: create, search, import, pull."""

from collections.abc import Sequence
from pathlib import Path

import click

from adapters_store import AdapterRecord, AdapterStore, Hit, Lineage, Task, imports, transfer
from adapters_store.imports import Foreign
from adapters_store.records import EXAMPLES
from t2l_router import bootstrap, intake, storage
from t2l_router.bootstrap import Writing
from t2l_router.cli.adapters.options import (
    columns,
    fields,
    open_server,
    server_option,
    tenant_option,
)
from t2l_router.cli.examples import examples_option, told
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Column, Output, output_option
from t2l_router.config import Settings
from t2l_router.describe import validated
from t2l_router.examples import Pair
from t2l_router.intake import Fit
from t2l_router.remote import RemoteStore

_model_options = settings_options("data_dir", "base_model", "hypernet", "encoder", "device")


@click.command()
@click.argument("description", required=False)
@examples_option
@click.option("--alias", help="Also give it this name.")
@click.option("--tag", "tags", multiple=True, help="Also tag it; may be repeated.")
@tenant_option
@server_option
@_model_options
@output_option
def create(
    *,
    out: Output,
    settings: Settings,
    server: str | None,
    description: str | None,
    examples: tuple[Pair, ...],
    alias: str | None,
    tags: tuple[str, ...],
    tenant: str,
) -> None:
    """
    Write an adapter for a task and keep it.

    A description tells it, examples or both. The same task gives the same adapter, so that a
    second call changes nothing. A server decides as for a request: what it holds for a like
    description may do.
    """
    given = told(description, examples)
    if server is not None:
        with open_server(settings, server) as remote:
            record = remote.create(given.text or None, given.examples, tenant=tenant)
            _finish(remote, out, record, alias=alias, tags=tags)
        return
    with loading() as (enter, progress):
        writing = bootstrap.load_writing(settings, enter=enter, progress=progress)
        writer = bootstrap.load_writer(settings, writing, enter=enter)
    weights = writer.write(given)
    embedding = None if given.examples else writer.embed(given)
    source = EXAMPLES if given.examples else "operator"
    task = Task(given.label, embedding, writing.encoder.fingerprint, source)
    with storage.open_library(settings, actor=storage.operator()) as store:
        record = store.add(
            storage.adapter_files(weights),
            tenant=tenant,
            base=writing.base.fingerprint,
            task=task,
            lineage=Lineage(hypernet_id=writing.generator.hypernet_id),
        )
        _finish(store, out, record, alias=alias, tags=tags)


@click.command()
@click.argument("text")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=5, show_default=True)
@tenant_option
@server_option
@_model_options
@output_option
def search(
    *, out: Output, settings: Settings, server: str | None, text: str, limit: int, tenant: str
) -> None:
    """Find the adapters whose descriptions are nearest to TEXT."""
    text = validated(text)
    if server is not None:
        with open_server(settings, server) as remote:
            hits = remote.find(text, tenant=tenant, k=limit)
    else:
        hits = _find(settings, text, tenant=tenant, k=limit)
    rows = [
        fields(hit.adapter) | {"score": hit.score, "description": hit.description} for hit in hits
    ]
    found, *others = columns(out)
    score = Column("score", "score", lambda value: f"{value:.3f}", right=True)
    nothing = "No adapter that could be found has a description; t2l adapters create makes one."
    out.table(rows, [found, score, *others], nothing=nothing)


def _find(settings: Settings, text: str, *, tenant: str, k: int) -> list[Hit]:
    writing = _load(settings)
    (embedding,) = writing.encoder.embed([text])
    base, encoder = writing.base.fingerprint, writing.encoder.fingerprint
    with storage.open_library(settings, actor=storage.operator()) as store:
        return store.search(embedding, tenant=tenant, base=base, encoder=encoder, k=k)


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--description", "-d", "texts", multiple=True, help="What it is for; repeatable.")
@click.option("--alias", help="Also give it this name.")
@tenant_option
@server_option
@_model_options
@output_option
def import_(
    *,
    out: Output,
    settings: Settings,
    server: str | None,
    source: Path,
    texts: tuple[str, ...],
    alias: str | None,
    tenant: str,
) -> None:
    """
    Take in a PEFT directory or zip file (safetensors only).

    Without a description, and none in the export, no search finds it: use its id or alias.
    """
    foreign = imports.read_path(source)
    _take_in(out, settings, foreign, texts, server=server, alias=alias, tenant=tenant)


@click.command()
@click.argument("url")
@click.option("--description", "-d", "texts", multiple=True, help="What it is for; repeatable.")
@click.option("--alias", help="Also give it this name.")
@tenant_option
@server_option
@_model_options
@output_option
def pull(
    *,
    out: Output,
    settings: Settings,
    server: str | None,
    url: str,
    texts: tuple[str, ...],
    alias: str | None,
    tenant: str,
) -> None:
    """
    Take in an adapter from a URL.

    Any that fsspec knows: s3://BUCKET/PATH, hf://OWNER/REPOSITORY@COMMIT, ... It is fetched here,
    and with --server handed on from here: no server fetches URLs for its clients.
    """
    foreign = transfer.pull(url, options={})
    _take_in(out, settings, foreign, texts, server=server, alias=alias, tenant=tenant)


def _load(settings: Settings) -> Writing:
    with loading() as (enter, progress):
        return bootstrap.load_writing(settings, enter=enter, progress=progress)


def _take_in(
    out: Output,
    settings: Settings,
    foreign: Foreign,
    texts: Sequence[str],
    *,
    server: str | None,
    alias: str | None,
    tenant: str,
) -> None:
    wanted = intake.texts_of(foreign, texts)
    if server is not None:
        with open_server(settings, server) as remote:
            record = remote.take_in(foreign, tenant=tenant)
            for text in wanted:
                record = remote.describe(record.id, text, tenant=tenant)
            _finish(remote, out, record, alias=alias, tags=())
        return
    writing = _load(settings)
    fit = Fit(
        writing.base.name,
        writing.base.fingerprint,
        writing.encoder.fingerprint,
        storage.module_shapes(writing.generator.spec),
    )
    fit.check(foreign)
    tasks = intake.tasks_of(wanted, writing.encoder.embed(wanted), fit) if wanted else []
    with storage.open_library(settings, actor=storage.operator()) as store:
        record = intake.take_in(store, foreign, tasks, tenant=tenant, fit=fit)
        _finish(store, out, record, alias=alias, tags=())


def _finish(
    store: AdapterStore | RemoteStore,
    out: Output,
    record: AdapterRecord,
    *,
    alias: str | None,
    tags: Sequence[str],
) -> None:
    if alias is not None:
        store.aliases.set(alias, record.id, tenant=record.tenant)
    if tags:
        store.tag(record.id, tenant=record.tenant, add=tags)
    out.record(fields(store.get(record.id, tenant=record.tenant)))


VERBS = (create, search, import_, pull)
