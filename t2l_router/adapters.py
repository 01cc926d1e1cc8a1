"""Adapters on their way to the engine: tensors in memory, the rest in the library."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters_store import AdapterFiles
from adapters_store.errors import StoreError
from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef, Elsewhere, Weights
from t2l_router.errors import InvalidAdapter, LibraryUnavailable, T2LError
from t2l_router.library import Library

_RECHECK_S = 1.0
"""So soon every router notices that an adapter was quarantined, deleted, or an alias moved."""

_MAX_KNOWN = 10_000


class Tensors(Protocol):
    """What knows the form of an adapter's tensors, which is the hypernetwork's and the engine's."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Module path -> (d_in, d_out) of everything that adapters may change."""

    def pack(self, weights: Weights) -> AdapterFiles:
        """The adapter as the library stores it."""

    def read(self, directory: Path) -> Weights:
        """The adapter of a PEFT directory."""

    def distance(self, one: Weights, two: Weights) -> float:
        """Delta-W distance of two adapters, from 0 to 2."""


@dataclass(frozen=True, slots=True)
class _Known:
    adapter_id: AdapterId
    checked_at: float


class Adapters:
    """
    Hands out adapters: from memory, else from the library.

    Args:
        library: Holds them all.
        tensors: Reads their files.
        max_bytes: Tensors in memory at most; the newest stay, even a single one that is larger.
        by_id: The engine gets adapters from the library itself, so their tensors are read only to
            compare them.
    """

    def __init__(
        self, library: Library, tensors: Tensors, *, max_bytes: int, by_id: bool = False
    ) -> None:
        self.by_id = by_id
        self._library = library
        self._tensors = tensors
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._held: OrderedDict[AdapterId, AdapterRef] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._loading: dict[AdapterId, asyncio.Task[AdapterRef]] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors in memory."""
        return self._n_bytes

    def hold(self, weights: Weights, *, tenant: str) -> AdapterRef:
        """Keep a new adapter of the tenant in memory."""
        ref = AdapterRef(weights.adapter_id, weights)
        self._remember(ref)
        self._check(tenant, ref.adapter_id, ref.adapter_id)
        return ref

    def forget(self, adapter_id: AdapterId, *, tenant: str) -> None:
        """Ask the library anew before the tenant is given this adapter again."""
        self._known.pop((tenant, adapter_id), None)

    async def named(self, name: str, *, tenant: str) -> AdapterRef:
        """
        The tenant's adapter of an id, the start of one, or an alias.

        Raises:
            UnknownAdapter: There is none, or it is another tenant's.
            AdapterRefused: It may not serve.
            LibraryUnavailable: The library is away, and the adapter isn't known from before.
            InvalidAdapter: Its files can't be read.
        """
        known = self._known.get((tenant, name))
        if known is None or time.monotonic() - known.checked_at > _RECHECK_S:
            try:
                record = await self._library.find(name, tenant=tenant)
            except LibraryUnavailable:
                # What it was a moment ago is better than no adapter in mid-conversation.
                if known is None:
                    raise
            except T2LError:
                self._known.pop((tenant, name), None)
                raise
            else:
                known = self._check(tenant, name, record.id)
        return await self.fetch(known.adapter_id, tenant=tenant)

    async def fetch(self, adapter_id: AdapterId, *, tenant: str) -> AdapterRef:
        """An adapter that the library has shown to the tenant, for the engine; see `load`."""
        if self.by_id:
            return AdapterRef(adapter_id, Elsewhere(adapter_id))
        return await self.load(adapter_id, tenant=tenant)

    async def load(self, adapter_id: AdapterId, *, tenant: str) -> AdapterRef:
        """
        An adapter that the library has shown to the tenant, with its tensors.

        Raises:
            InvalidAdapter: Its files can't be read.
            LibraryUnavailable: They aren't in memory and the library is away.
        """
        if ref := self._held.get(adapter_id):
            self._held.move_to_end(adapter_id)
            return ref
        loading = self._loading.get(adapter_id)
        if loading is None:
            loading = asyncio.create_task(self._load(adapter_id, tenant))
            self._loading[adapter_id] = loading
            loading.add_done_callback(lambda _: self._loading.pop(adapter_id))
        return await asyncio.shield(loading)

    async def _load(self, adapter_id: AdapterId, tenant: str) -> AdapterRef:
        try:
            directory = await self._library.directory(adapter_id, tenant=tenant)
            weights = await asyncio.to_thread(self._tensors.read, directory)
        except (StoreError, OSError) as error:
            raise InvalidAdapter(f"adapter {adapter_id} can't be loaded: {error}") from error
        ref = AdapterRef(adapter_id, weights)
        self._remember(ref)
        return ref

    def _remember(self, ref: AdapterRef) -> None:
        if ref.adapter_id not in self._held:
            self._held[ref.adapter_id] = ref
            self._n_bytes += ref.weights.nbytes
        self._held.move_to_end(ref.adapter_id)
        while self._n_bytes > self._max_bytes and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            self._n_bytes -= gone.weights.nbytes

    def _check(self, tenant: str, name: str, adapter_id: AdapterId) -> _Known:
        known = _Known(adapter_id, time.monotonic())
        self._known[tenant, name] = known
        self._known.move_to_end((tenant, name))
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return known
