"""Verbs that need the models: create, search, import, pull."""

from collections.abc import Sequence
from pathlib import Path

import click

from adapters_store import AdapterRecord, AdapterStore, Lineage, Task, imports, transfer
from adapters_store.errors import InvalidImport
from adapters_store.imports import Foreign
from t2l_router import bootstrap, storage
from t2l_router.bootstrap import Writing
from t2l_router.cli.adapters.options import columns, fields, tenant_option
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Column, Output, output_option
from t2l_router.config import Settings
from t2l_router.describe import validated

_model_options = settings_options("data_dir", "base_model", "hypernet", "encoder", "device")


@click.command()
@click.argument("description")
@click.option("--alias", help="Also give it this name.")
@click.option("--tag", "tags", multiple=True, help="Also tag it; may be repeated.")
@tenant_option
@_model_options
@output_option
def create(
    *,
    out: Output,
    settings: Settings,
    description: str,
    alias: str | None,
    tags: tuple[str, ...],
    tenant: str,
) -> None:
    """
    Write an adapter from a task description and keep it.

    The same description gives the same adapter, so that a second call changes nothing.
    """
    text = validated(description)
    writing = _load(settings)
    embeddings = writing.encoder.embed([text])
    (weights,) = writing.generator.generate(embeddings)
    task = Task(text, embeddings[0], writing.encoder.fingerprint, "operator")
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
@_model_options
@output_option
def search(*, out: Output, settings: Settings, text: str, limit: int, tenant: str) -> None:
    """Find the adapters whose descriptions are nearest to TEXT."""
    writing = _load(settings)
    (embedding,) = writing.encoder.embed([validated(text)])
    with storage.open_library(settings, actor=storage.operator()) as store:
        hits = store.search(
            embedding,
            tenant=tenant,
            base=writing.base.fingerprint,
            encoder=writing.encoder.fingerprint,
            k=limit,
        )
    rows = [
        fields(hit.adapter) | {"score": hit.score, "description": hit.description} for hit in hits
    ]
    found, *others = columns(out)
    score = Column("score", "score", lambda value: f"{value:.3f}", right=True)
    out.table(rows, [found, score, *others])


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--description", "-d", "texts", multiple=True, help="What it is for; repeatable.")
@click.option("--alias", help="Also give it this name.")
@tenant_option
@_model_options
@output_option
def import_(
    *,
    out: Output,
    settings: Settings,
    source: Path,
    texts: tuple[str, ...],
    alias: str | None,
    tenant: str,
) -> None:
    """
    Take in a PEFT directory or zip file (safetensors only).

    Without a description, and none in the export, no search finds it: use its id or alias.
    """
    _take_in(out, settings, imports.read_path(source), texts, alias=alias, tenant=tenant)


@click.command()
@click.argument("url")
@click.option("--description", "-d", "texts", multiple=True, help="What it is for; repeatable.")
@click.option("--alias", help="Also give it this name.")
@tenant_option
@_model_options
@output_option
def pull(
    *,
    out: Output,
    settings: Settings,
    url: str,
    texts: tuple[str, ...],
    alias: str | None,
    tenant: str,
) -> None:
    """
    Take in an adapter from a URL.

    Any that fsspec knows: s3://BUCKET/PATH, hf://OWNER/REPOSITORY@COMMIT, ...
    """
    foreign = transfer.pull(url, options={})
    _take_in(out, settings, foreign, texts, alias=alias, tenant=tenant)


def _load(settings: Settings) -> Writing:
    with loading() as (enter, progress):
        return bootstrap.load_writing(settings, enter=enter, progress=progress)


def _take_in(
    out: Output,
    settings: Settings,
    foreign: Foreign,
    texts: Sequence[str],
    *,
    alias: str | None,
    tenant: str,
) -> None:
    writing = _load(settings)
    manifest = foreign.manifest
    base = writing.base.fingerprint
    if manifest is not None and manifest.base != base:
        raise InvalidImport(
            f"{foreign.source} was made for a base model with fingerprint {manifest.base[:16]}; "
            f"{writing.base.name} here has {base[:16]}"
        )
    wanted = [validated(text) for text in texts or (manifest.descriptions if manifest else ())]
    tasks = [
        Task(text, embedding, writing.encoder.fingerprint, "import")
        for text, embedding in zip(
            wanted, writing.encoder.embed(wanted) if wanted else [], strict=True
        )
    ]
    with storage.open_library(settings, actor=storage.operator()) as store:
        record = store.add(
            foreign.files,
            tenant=tenant,
            base=base,
            task=tasks[0] if tasks else None,
            lineage=Lineage("imported", foreign.source, manifest.hypernet_id if manifest else None),
            expected_shapes=storage.module_shapes(writing.generator.spec),
        )
        for task in tasks[1:]:
            store.add_description(record.id, task, tenant=tenant)
        _finish(store, out, record, alias=alias, tags=())


def _finish(
    store: AdapterStore,
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
