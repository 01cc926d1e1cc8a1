"""The adapter library: SQL is the truth, blobs hold the weights, the vector index is a cache."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters_store.identity import AdapterId
    from adapters_store.location import StoreConfig
    from adapters_store.peft_files import AdapterFiles
    from adapters_store.records import AdapterRecord, Hit, Lineage, Task
    from adapters_store.store import AdapterStore

__all__ = [
    "AdapterFiles",
    "AdapterId",
    "AdapterRecord",
    "AdapterStore",
    "Hit",
    "Lineage",
    "StoreConfig",
    "Task",
]

# Loaded at first use: whoever needs only an id or an error pays for no database and no FAISS.
_HOMES = {
    "AdapterFiles": "peft_files",
    "AdapterId": "identity",
    "AdapterRecord": "records",
    "AdapterStore": "store",
    "Hit": "records",
    "Lineage": "records",
    "StoreConfig": "location",
    "Task": "records",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
