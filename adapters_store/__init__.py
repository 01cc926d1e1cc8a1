"""The adapter library: SQL is the truth, blobs hold the weights, the vector index is a cache."""

from adapters_store.identity import AdapterId
from adapters_store.peft_files import AdapterFiles
from adapters_store.records import AdapterRecord, Hit, Lineage, Task
from adapters_store.store import AdapterStore, StoreConfig

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
