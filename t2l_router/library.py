"""Adapters held in memory: by the description that reached them, and by id."""

from collections import OrderedDict
from dataclasses import dataclass, field

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef


@dataclass(slots=True)
class _Entry:
    adapter: AdapterRef
    descriptions: set[str] = field(default_factory=set)


class MemoryLibrary:
    """
    Keeps the adapters used last, within a number of bytes; every lookup is within one tenant.

    Args:
        max_bytes: Tensors held at most; the newest adapter is held even if it is larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._entries: OrderedDict[tuple[str, AdapterId], _Entry] = OrderedDict()
        self._ids: dict[tuple[str, str], AdapterId] = {}  # by tenant and description

    def find(self, tenant: str, description: str) -> AdapterRef | None:
        """The tenant's adapter that was made for exactly this description."""
        adapter_id = self._ids.get((tenant, description))
        return None if adapter_id is None else self.get(tenant, adapter_id)

    def get(self, tenant: str, adapter_id: str) -> AdapterRef | None:
        """The tenant's adapter of this id."""
        key = (tenant, AdapterId(adapter_id))
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].adapter

    def add(self, tenant: str, description: str, adapter: AdapterRef) -> None:
        """Hold an adapter; those unused for longest make room."""
        key = (tenant, adapter.adapter_id)
        if key not in self._entries:
            self._entries[key] = _Entry(adapter)
            self._n_bytes += adapter.weights.nbytes
        self._entries.move_to_end(key)
        self._entries[key].descriptions.add(description)
        self._ids[tenant, description] = adapter.adapter_id
        while self._n_bytes > self._max_bytes and len(self._entries) > 1:
            (owner, _), gone = self._entries.popitem(last=False)
            self._n_bytes -= gone.adapter.weights.nbytes
            for text in gone.descriptions:
                del self._ids[owner, text]

    def ids(self, tenant: str) -> list[AdapterId]:
        """The tenant's adapters, the one used last first."""
        return [adapter_id for owner, adapter_id in reversed(self._entries) if owner == tenant]
