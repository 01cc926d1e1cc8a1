"""The adapters on this server's disk: fetched when first named, verified, never removed."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from adapters_store.blobs import LocalBlobs
from adapters_store.errors import AdapterCorrupt, InvalidImport, StoreFull
from adapters_store.identity import AdapterId
from adapters_store.imports import Foreign
from adapters_store.names import ADAPTER_ID
from integrations.vllm.sources import Source
from t2l_router.errors import AdapterRefused

# Below vLLM's own logger, whose lines its operators see.
log = logging.getLogger("vllm.t2l")

_MAX_MISSES = 10_000


class LocalAdapters:
    """
    Adapter id -> a local, verified directory.

    A running vLLM reads such a directory again whenever the adapter comes back into its memory,
    and dies if it is gone. So nothing is removed here: a full cache refuses new adapters.

    Args:
        source: Where adapters come from.
        root: This machine's own directory; servers may share it.
        base: Gives the fingerprint of the base model that the server runs; may take its time.
        max_bytes: From here on new adapters are refused.
        unknown_for_s: How long a miss is remembered.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        source: Source,
        root: Path,
        *,
        base: Callable[[], str],
        max_bytes: int,
        unknown_for_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._blobs = LocalBlobs(root)
        self._base = base
        self._max_bytes = max_bytes
        self._unknown_for_s = unknown_for_s
        self._clock = clock
        self._flights: dict[AdapterId, asyncio.Task[Path | None]] = {}
        # What was asked for in vain: until when, and why it was refused if it was there.
        self._misses: dict[AdapterId, tuple[float, AdapterRefused | None]] = {}
        self._writing = threading.Lock()
        self._used_bytes: int | None = None

    async def directory(self, name: str) -> Path | None:
        """
        The directory of an adapter, or None where nobody knows it.

        Calls for one adapter share one fetch, which goes on when they are cancelled.

        Raises:
            AdapterRefused: It is there, but damaged, tampered with or another model's.
            StoreUnavailable: Its source can't be reached.
            StoreFull: The local disk, or this cache, has no room for it.
        """
        if ADAPTER_ID.fullmatch(name) is None:
            log.warning("t2l: %.80r is no adapter id; nothing is looked up", name)
            return None
        adapter_id = AdapterId(name)
        until, refused = self._misses.get(adapter_id, (0.0, None))
        if self._clock() < until:
            if refused is not None:
                raise AdapterRefused(str(refused))
            return None
        flight = self._flights.get(adapter_id)
        if flight is None:
            flight = asyncio.create_task(asyncio.to_thread(self._fetched, adapter_id))
            self._flights[adapter_id] = flight
            flight.add_done_callback(lambda done: self._landed(adapter_id, done))
        return await asyncio.shield(flight)

    def _landed(self, adapter_id: AdapterId, flight: "asyncio.Task[Path | None]") -> None:
        del self._flights[adapter_id]
        if flight.cancelled():
            return
        error = flight.exception()  # also: nobody may be left who would look at it
        if isinstance(error, AdapterRefused):
            log.error("t2l: %s", error)
            self._miss(adapter_id, error)
        elif error is not None:
            log.error("t2l: %s can't be fetched: %s", adapter_id, error)
        elif flight.result() is None:
            log.warning("t2l: %s is unknown at its source", adapter_id)
            self._miss(adapter_id, None)

    def _miss(self, adapter_id: AdapterId, refused: AdapterRefused | None) -> None:
        self._misses.pop(adapter_id, None)
        while len(self._misses) >= _MAX_MISSES:
            del self._misses[next(iter(self._misses))]  # the oldest
        self._misses[adapter_id] = (self._clock() + self._unknown_for_s, refused)

    def _fetched(self, adapter_id: AdapterId) -> Path | None:
        start = time.perf_counter()
        base = self._base()
        path = self._blobs.path(adapter_id)
        if self._blobs.exists(adapter_id):
            self._check_copy(adapter_id, base)
            log.info("t2l: %s was on the disk, verified", adapter_id)
            return self._contained(path)
        try:
            found = self._source.fetch(adapter_id)
            if found is None:
                return None
            _check(found, adapter_id, base)
        except InvalidImport as error:
            raise AdapterRefused(f"{adapter_id} is refused: {error}") from error
        self._keep(adapter_id, base, found)
        taken_ms = 1_000 * (time.perf_counter() - start)
        size = found.files.size_bytes
        log.info("t2l: %s fetched and verified: %d bytes, %.0f ms", adapter_id, size, taken_ms)
        return self._contained(path)

    def _check_copy(self, adapter_id: AdapterId, base: str) -> None:
        try:
            if self._blobs.get(adapter_id).adapter_id(base) == adapter_id:
                return
            raise AdapterRefused(f"{adapter_id} is refused: it belongs to another base model")
        except AdapterCorrupt as error:
            raise AdapterRefused(
                f"{adapter_id} is refused, its local copy is damaged: {error}; "
                f"stop the servers that use it, then remove {self._blobs.path(adapter_id)}"
            ) from error

    def _keep(self, adapter_id: AdapterId, base: str, found: Foreign) -> None:
        with self._writing:
            if self._used_bytes is None:
                self._used_bytes = sum(stray.size_bytes for stray in self._blobs.published())
            if self._used_bytes + found.files.size_bytes > self._max_bytes:
                raise StoreFull(
                    f"{self._blobs.root} holds {self._used_bytes >> 20} MiB, its limit; adapters "
                    "are never removed under a running server: raise T2L_RESOLVER_CACHE_MAX_MIB, "
                    "or stop the server and empty the directory"
                )
            self._blobs.put(adapter_id, base, found.files)
            self._used_bytes += found.files.size_bytes

    def _contained(self, path: Path) -> Path:
        real, root = (Path(os.path.realpath(part)) for part in (path, self._blobs.root))
        if not real.is_relative_to(root):
            raise AdapterRefused(f"{path} leads out of {self._blobs.root}; it is not followed")
        return real


def _check(found: Foreign, adapter_id: AdapterId, base: str) -> None:
    """Refuse whatever is not exactly the adapter of this id on this base model."""
    of = None if found.manifest is None else found.manifest.base
    if of != base:
        raise AdapterRefused(
            f"{adapter_id} is refused: it belongs to the base model {of and of[:12]}, "
            f"this server runs {base[:12]} (fingerprints); give routers and servers one model"
        )
    if found.files.adapter_id(base) != adapter_id:
        raise AdapterRefused(
            f"{adapter_id} is refused: its files hash to {found.files.adapter_id(base)}, "
            "so they were changed after they were stored; restore them from a backup"
        )
