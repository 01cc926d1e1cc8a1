"""Adapters leave and enter the library: directories, zip files, any fsspec URL, the hub."""

import io
import json
import re
import shutil
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_store.blobs import MANIFEST_FILE, filesystem_of
from adapters_store.errors import Conflict, InvalidImport
from adapters_store.faults import named_os_errors, require_missing
from adapters_store.imports import LIMITS, Foreign, assemble
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from adapters_store.records import AdapterRecord

_EPOCH = (1980, 1, 1, 0, 0, 0)


def export_files(
    record: AdapterRecord, files: AdapterFiles, texts: Sequence[str]
) -> Mapping[str, bytes]:
    """An adapter as others load it: PEFT's two files, our manifest, and a card for people."""
    manifest = {
        "format": 1,
        "adapter_id": record.id,
        "base_fingerprint": record.base,
        "base_model": record.base_model,
        "hypernet_id": record.lineage.hypernet_id,
        "origin": record.lineage.origin,
        "descriptions": list(texts),
    }
    return {
        CONFIG_FILE: files.config,
        WEIGHTS_FILE: files.weights,
        MANIFEST_FILE: (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode(),
        "README.md": _card(record, texts).encode(),
    }


def write_directory(contents: Mapping[str, bytes], destination: Path) -> None:
    """Write an exported adapter as a directory that appears whole. Raises `Conflict`."""
    _refuse_existing(destination)
    beside = destination.parent / f".{destination.name}-{uuid.uuid4().hex}"
    with named_os_errors(f"export to {destination}"):
        try:
            beside.mkdir(parents=True)
            for name, data in contents.items():
                (beside / name).write_bytes(data)
            beside.rename(destination)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def write_zip(contents: Mapping[str, bytes], destination: Path) -> None:
    """Write an exported adapter as a zip file, the same bytes each time. Raises `Conflict`."""
    _refuse_existing(destination)
    beside = destination.parent / f".{destination.name}-{uuid.uuid4().hex}"
    with named_os_errors(f"export to {destination}"):
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(zipped(contents))
            beside.rename(destination)
        finally:
            beside.unlink(missing_ok=True)


def zipped(contents: Mapping[str, bytes]) -> bytes:
    """Files as a zip file, the same bytes each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return file.getvalue()


def push(contents: Mapping[str, bytes], url: str, *, options: Mapping[str, Any]) -> None:
    """
    Write an exported adapter below any fsspec URL, ``hf://owner/repository`` included.

    The weights are written last: a reader finds the whole adapter or none.
    """
    filesystem, root = filesystem_of(url, options)
    with named_os_errors(f"push to {url}"):
        filesystem.makedirs(root, exist_ok=True)
        for name in sorted(contents, key=lambda name: name == WEIGHTS_FILE):
            filesystem.pipe_file(f"{root.rstrip('/')}/{name}", contents[name])


def pull(url: str, *, options: Mapping[str, Any]) -> Foreign:
    """
    Read a foreign adapter from any fsspec URL.

    Raises:
        InvalidImport: It is no acceptable adapter, or a hub URL without a pinned revision, which
            could be something else tomorrow.
        StoreUnavailable: The place can't be reached, or doesn't let us in.
    """
    if url.startswith("hf://") and not re.fullmatch(
        r"hf://[\w.-]+/[\w.-]+@[0-9a-f]{40}(/.*)?", url
    ):
        raise InvalidImport(
            f"{url}: pin the revision by its 40-digit commit: hf://OWNER/REPOSITORY@COMMIT"
        )
    filesystem, root = filesystem_of(url, options)

    def read(name: str) -> bytes | None:
        path = f"{root.rstrip('/')}/{name}"
        try:
            size = filesystem.info(path)["size"]
        except FileNotFoundError as error:
            require_missing(error, url)
            return None
        if size is None:
            raise InvalidImport(f"{url} doesn't say how large {name} is; fetch it, then import it")
        if size > LIMITS[name]:
            raise InvalidImport(f"{name} has {size} bytes; at most {LIMITS[name]} are accepted")
        data: bytes = filesystem.cat_file(path)
        return data

    with named_os_errors(f"pull {url}"):
        return assemble(read, url)


def _refuse_existing(destination: Path) -> None:
    if destination.exists():
        raise Conflict(f"{destination} exists; choose another name or remove it")


def _card(record: AdapterRecord, texts: Sequence[str]) -> str:
    quoted = "\n".join("- " + " ".join(text.split()) for text in texts[:20]) or "- (none)"
    return (
        f"---\nbase_model: {json.dumps(record.base_model)}\nlibrary_name: peft\n"
        f"tags: [lora, text-to-lora]\n---\n\n# {record.id}\n\n"
        f"A LoRA adapter for {record.base_model}, {record.lineage.origin} on "
        f"{record.created_at:%F}.\n\n"
        f"Rank {record.rank}, alpha {record.alpha:g}, rsLoRA {record.rslora}, "
        f"modules {', '.join(record.target_modules)}.\n\n"
        f"Base model fingerprint: `{record.base}`\n\n"
        f"Hypernetwork: `{record.lineage.hypernet_id or 'none'}`\n\n"
        f"## What it is for\n\n{quoted}\n"
    )
