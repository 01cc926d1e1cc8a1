"""Where adapters come from; each source gives one by its id, as yet unchecked, or None."""

import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

import fsspec

from adapters_store.blobs import shard
from adapters_store.errors import InvalidImport, StoreUnavailable
from adapters_store.identity import AdapterId
from adapters_store.imports import LIMITS, Foreign, assemble, capped, read_path
from adapters_store.peft_files import WEIGHTS_FILE
from integrations.vllm.settings import ResolverSettings

_NOT_FOUND = 404
_MAX_ZIP_BYTES = sum(LIMITS.values())


class Source(Protocol):
    """Gives adapters by their id."""

    def fetch(self, adapter_id: AdapterId) -> Foreign | None:
        """
        The files of an adapter, or None where it is unknown.

        Raises:
            InvalidImport: What lies there is no adapter.
            StoreUnavailable: The source can't be reached.
        """


def open_source(settings: ResolverSettings) -> Source:
    """The source that the settings name; nothing is asked of it yet."""
    if settings.kind == "router":
        key = None if settings.key is None else settings.key.get_secret_value()
        return RouterSource(settings.source, key, timeout_s=settings.timeout_s)
    if settings.kind == "directory":
        return DirectorySource(Path(settings.source.removeprefix("file://")))
    return ObjectSource(settings.source, settings.source_options)


class DirectorySource:
    """
    The blobs of a library in a directory that this machine can read.

    Args:
        root: What the routers' library calls its blobs, e.g. a mounted volume.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, adapter_id: AdapterId) -> Foreign | None:
        """Read the adapter's directory, which must really lie below the root."""
        root = Path(os.path.realpath(self.root))
        if not root.is_dir():
            # A volume that isn't mounted must not look like a library without adapters.
            raise StoreUnavailable(f"{self.root} is no directory; is it mounted?")
        found = Path(os.path.realpath(root / shard(adapter_id) / adapter_id))
        if not found.is_relative_to(root):
            raise InvalidImport(f"it leads out of {self.root}")
        return read_path(found) if found.is_dir() else None


class ObjectSource:
    """
    The blobs of a library in an object store.

    Args:
        url: fsspec URL, e.g. ``s3://bucket/prefix``.
        options: Passed to fsspec.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.filesystem, root = fsspec.core.url_to_fs(url, **options)
        self.root = root.rstrip("/")

    def fetch(self, adapter_id: AdapterId) -> Foreign | None:
        """Read the adapter's three objects."""
        path = f"{self.root}/{shard(adapter_id)}/{adapter_id}"

        def read(name: str) -> bytes | None:
            def up_to(limit: int) -> bytes:
                data: bytes = self.filesystem.cat_file(f"{path}/{name}", start=0, end=limit)
                return data

            try:
                return capped(name, 0, up_to)
            except FileNotFoundError:
                return None

        # The weights are written last: without them there is no adapter (yet).
        weights = read(WEIGHTS_FILE)
        if weights is None:
            return None
        return assemble(lambda name: weights if name == WEIGHTS_FILE else read(name), path)


class RouterSource:
    """
    The admin API of a router.

    Args:
        url: The router's address, with or without ``/v1``.
        key: An API key of the operator with the scope ``pull``; None where no keys are needed.
        timeout_s: How long the router may keep silent.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout_s = timeout_s
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def fetch(self, adapter_id: AdapterId) -> Foreign | None:
        """Read the zip file that the router makes of the adapter."""
        request = urllib.request.Request(  # noqa: S310 - http(s), by the operator's own setting
            f"{self.url}/admin/blobs/{adapter_id}", headers=self._headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                data = answer.read(_MAX_ZIP_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == _NOT_FOUND:
                    return None
                raise StoreUnavailable(f"{self.url} answers {error.code} {error.reason}") from None
        except OSError as error:
            raise StoreUnavailable(f"{self.url} can't be reached: {error}") from error
        with tempfile.NamedTemporaryFile(suffix=".zip") as file:
            file.write(data)
            file.flush()
            return read_path(Path(file.name))
