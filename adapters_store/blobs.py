"""
Adapter directories on any fsspec filesystem, named by content id.

A directory holds ``adapter_config.json``, ``adapter_model.safetensors`` and ``t2l.json``, which
names the base model's fingerprint, so that anyone who holds the directory can check its id.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import fsspec

from adapters_store.errors import AdapterCorrupt, InvalidImport, InvalidInput, StoreUnavailable
from adapters_store.faults import named_os_errors
from adapters_store.identity import AdapterId
from adapters_store.names import ADAPTER_ID
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles

MANIFEST_FILE = "t2l.json"
_FILES = (MANIFEST_FILE, CONFIG_FILE, WEIGHTS_FILE)


@dataclass(frozen=True, slots=True)
class Stray:
    """
    Something under the blobs' root that is no whole adapter directory.

    Args:
        name: Its path below the root.
        size_bytes: Its size.
        age_s: Seconds since it was last written.
    """

    name: str
    size_bytes: int
    age_s: float


class Blobs(Protocol):
    """Where the weights lie."""

    def put(self, adapter_id: AdapterId, base: str, files: AdapterFiles) -> None:
        """Publish the directory whole or not at all; an existing one stays as it is."""

    def get(self, adapter_id: AdapterId) -> AdapterFiles:
        """Read a directory and check its hash. Raises `AdapterCorrupt`."""

    def exists(self, adapter_id: AdapterId) -> bool:
        """Whether the directory was published."""

    def delete(self, adapter_id: AdapterId) -> None:
        """Remove the directory; a missing one is no error."""

    def directory(self, adapter_id: AdapterId) -> Path:
        """A local, verified PEFT directory that other programs can load."""

    def published(self) -> Iterator[Stray]:
        """Every published directory, named by its id."""

    def strays(self) -> Iterator[Stray]:
        """What a killed writer left behind."""

    def remove_stray(self, stray: Stray) -> None:
        """Remove what `strays` named."""


def open_blobs(url: str, *, cache_dir: Path, options: dict[str, Any] | None = None) -> Blobs:
    """
    The blobs at *url*.

    Args:
        url: A local path or any fsspec URL, e.g. ``s3://bucket/prefix`` or ``memory://name``.
        cache_dir: Where copies of remote directories are kept for programs that need a path.
        options: Passed to fsspec, e.g. ``endpoint_url``.

    Raises:
        InvalidInput: There is no such kind of URL.
        StoreUnavailable: The package for this kind of URL is missing.
    """
    filesystem, root = filesystem_of(url, options or {})
    if "file" in (filesystem.protocol, *filesystem.protocol):
        return LocalBlobs(Path(root))
    return ObjectBlobs(filesystem, root, cache_dir)


def filesystem_of(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Find the filesystem that *url* names, and the path in it; raises as `open_blobs` does."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:  # fsspec's text names the package
        told = "pip install '.[s3]' in a checkout of t2l" if url.startswith("s3:") else str(error)
        raise StoreUnavailable(f"{url} needs more packages: {told}") from None
    except ValueError as error:
        raise InvalidInput(f"{url}: {error}; fsspec knows s3://, gs://, file:// ...") from None
    return filesystem, root


class LocalBlobs:
    """Blobs on a local disk: written beside, synced, renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, adapter_id: AdapterId, base: str, files: AdapterFiles) -> None:
        """Publish the directory whole or not at all; an existing one stays as it is."""
        final = self.path(adapter_id)
        if final.exists():
            return
        beside = self.root / "tmp" / uuid.uuid4().hex
        with named_os_errors(f"store adapter {adapter_id}"):
            try:
                _make_synced(final.parent)
                beside.mkdir(parents=True)
                contents = blob_files(adapter_id, base, files).items()
                # All at once: syncs that overlap share one commit of the filesystem's journal.
                with ThreadPoolExecutor(len(contents)) as threads:
                    list(
                        threads.map(lambda file: _write_synced(beside / file[0], file[1]), contents)
                    )
                _sync_directory(beside)
                self._rename(beside, final)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def _rename(self, beside: Path, final: Path) -> None:
        try:
            beside.rename(final)
        except OSError:
            # Another writer published the same content first: equal ids mean equal bytes.
            if not final.exists():
                raise
        _sync_directory(final.parent)

    def get(self, adapter_id: AdapterId) -> AdapterFiles:
        """Read a directory and check its hash."""
        return _checked(adapter_id, lambda name: (self.path(adapter_id) / name).read_bytes())

    def exists(self, adapter_id: AdapterId) -> bool:
        """Whether the directory was published."""
        return self.path(adapter_id).is_dir()

    def delete(self, adapter_id: AdapterId) -> None:
        """Remove the directory; it vanishes at once, as a whole."""
        doomed = self.root / "tmp" / f"deleted-{uuid.uuid4().hex}"
        with named_os_errors(f"remove adapter {adapter_id}"):
            doomed.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path(adapter_id).rename(doomed)
            except FileNotFoundError:
                return
            shutil.rmtree(doomed)

    def directory(self, adapter_id: AdapterId) -> Path:
        """The verified directory itself."""
        self.get(adapter_id)
        return self.path(adapter_id)

    def published(self) -> Iterator[Stray]:
        """Every published directory, named by its id."""
        for path in sorted(self.root.glob("??/t2l-*")):
            if ADAPTER_ID.fullmatch(path.name):
                yield _stray(path, path.name)

    def strays(self) -> Iterator[Stray]:
        """What a killed writer left behind."""
        for path in sorted(self.root.glob("tmp/*")):
            yield _stray(path, f"tmp/{path.name}")

    def remove_stray(self, stray: Stray) -> None:
        """Remove what `strays` named."""
        with named_os_errors(f"remove {stray.name}"):
            shutil.rmtree(self.root / stray.name, ignore_errors=True)

    def path(self, adapter_id: AdapterId) -> Path:
        """Where an adapter lies, or would."""
        return self.root / shard(adapter_id) / _checked_id(adapter_id)


class ObjectBlobs:
    """Blobs in an object store: the weights are written last and so make the directory exist."""

    def __init__(self, filesystem: Any, root: str, cache_dir: Path) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.cache = LocalBlobs(cache_dir)

    def put(self, adapter_id: AdapterId, base: str, files: AdapterFiles) -> None:
        """Publish the directory whole or not at all; an existing one stays as it is."""
        if self.exists(adapter_id):
            return
        with named_os_errors(f"store adapter {adapter_id}"):
            self.filesystem.makedirs(self._path(adapter_id), exist_ok=True)
            for name, data in blob_files(adapter_id, base, files).items():
                self.filesystem.pipe_file(f"{self._path(adapter_id)}/{name}", data)

    def get(self, adapter_id: AdapterId) -> AdapterFiles:
        """Read a directory and check its hash."""
        path = self._path(adapter_id)
        return _checked(adapter_id, lambda name: self.filesystem.cat_file(f"{path}/{name}"))

    def exists(self, adapter_id: AdapterId) -> bool:
        """Whether the directory was published."""
        self.filesystem.invalidate_cache()
        with named_os_errors(f"look for adapter {adapter_id}"):
            return bool(self.filesystem.exists(f"{self._path(adapter_id)}/{WEIGHTS_FILE}"))

    def delete(self, adapter_id: AdapterId) -> None:
        """Remove the directory, the weights first."""
        with named_os_errors(f"remove adapter {adapter_id}"):
            for name in reversed(_FILES):
                path = f"{self._path(adapter_id)}/{name}"
                if self.filesystem.exists(path):
                    self.filesystem.rm_file(path)

    def directory(self, adapter_id: AdapterId) -> Path:
        """A verified copy in the local cache."""
        if not self.cache.exists(adapter_id):
            base = _manifest_base(self.filesystem.cat_file, f"{self._path(adapter_id)}/")
            self.cache.put(adapter_id, base, self.get(adapter_id))
        return self.cache.directory(adapter_id)

    def published(self) -> Iterator[Stray]:
        """Every published directory, named by its id."""
        yield from (stray for stray, whole in self._directories() if whole)

    def strays(self) -> Iterator[Stray]:
        """Directories without weights."""
        yield from (stray for stray, whole in self._directories() if not whole)

    def remove_stray(self, stray: Stray) -> None:
        """Remove what `strays` named."""
        self.delete(AdapterId(stray.name))

    def _directories(self) -> Iterator[tuple[Stray, bool]]:
        self.filesystem.invalidate_cache()
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        with named_os_errors("list adapters"):
            for path, info in self.filesystem.find(self.root, detail=True).items():
                *_, name, file = path.split("/")
                if ADAPTER_ID.fullmatch(name):
                    found.setdefault(name, []).append((file, info))
        for name, files in sorted(found.items()):
            size = sum(int(info["size"]) for _, info in files)
            newest = max(_written_at(info) for _, info in files)
            whole = WEIGHTS_FILE in {file for file, _ in files}
            yield Stray(name, size, max(0.0, time.time() - newest)), whole

    def _path(self, adapter_id: AdapterId) -> str:
        return f"{self.root}/{shard(adapter_id)}/{_checked_id(adapter_id)}"


def blob_files(adapter_id: AdapterId, base: str, files: AdapterFiles) -> Mapping[str, bytes]:
    """An adapter's directory as it is stored: file name -> contents, the weights last."""
    manifest = {"adapter_id": adapter_id, "base_fingerprint": base, "format": 1}
    return {
        MANIFEST_FILE: (json.dumps(manifest, indent=2) + "\n").encode(),
        CONFIG_FILE: files.config,
        WEIGHTS_FILE: files.weights,
    }


def _checked(adapter_id: AdapterId, read: Callable[[str], bytes]) -> AdapterFiles:
    """Read the three files and make sure that they hash to *adapter_id*."""
    try:
        base = _manifest_base(read, "")
        files = AdapterFiles(read(CONFIG_FILE), read(WEIGHTS_FILE))
        found = files.adapter_id(base)
    except FileNotFoundError as error:
        raise AdapterCorrupt(f"adapter {adapter_id}: a file is missing: {error}") from error
    except InvalidImport as error:
        raise AdapterCorrupt(f"adapter {adapter_id}: its files are damaged: {error}") from error
    if found != adapter_id:
        raise AdapterCorrupt(
            f"adapter {adapter_id}: its files hash to {found}; restore it from a backup"
        )
    return files


def _manifest_base(read: Callable[[str], bytes], prefix: str) -> str:
    try:
        return str(json.loads(read(f"{prefix}{MANIFEST_FILE}"))["base_fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidImport(f"{MANIFEST_FILE} is damaged: {error}") from error


def _checked_id(adapter_id: AdapterId) -> AdapterId:
    assert ADAPTER_ID.fullmatch(adapter_id), f"{adapter_id!r} must never become a path"
    return adapter_id


def shard(adapter_id: AdapterId) -> str:
    """The directory below the root that holds an adapter's own."""
    # Few entries per directory: some filesystems get slow with many.
    return adapter_id.removeprefix("t2l-")[:2]


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_synced(path: Path) -> None:
    """Make a directory that is still there after a power cut."""
    if not path.is_dir():
        _make_synced(path.parent)
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written_at(info: Mapping[str, Any]) -> float:
    """Seconds since 1970, of which each filesystem has its own name and type."""
    written = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if written else time.time()


def _stray(path: Path, name: str) -> Stray:
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    newest = max([path.stat().st_mtime, *(file.st_mtime for file in files)])
    return Stray(name, sum(file.st_size for file in files), max(0.0, time.time() - newest))
