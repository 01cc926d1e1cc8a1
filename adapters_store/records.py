"""What the library hands out and takes in: plain, frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapters_store.identity import AdapterId

State = Literal["generated", "approved", "quarantined", "deleted"]
Origin = Literal["generated", "imported", "merged"]

SERVED_STATES: tuple[State, ...] = ("generated", "approved")
"""Adapters in these states may be found by a search."""

EXAMPLES = "examples"
"""The source of texts that name a task by its examples: found by the very text, by no search."""


@dataclass(frozen=True, slots=True)
class Task:
    """
    A task description and where it lies in an encoder's space.

    Args:
        text: The description, 1 to 4,000 characters.
        embedding: ``[D]`` float32, unit L2 norm; None if and only if the source is `EXAMPLES`.
        encoder: Fingerprint of the encoder that made it.
        source: Where the text came from, e.g. ``request``, ``inferred``, ``import``.
    """

    text: str
    embedding: NDArray[np.float32] | None = field(repr=False, compare=False)
    encoder: str
    source: str = "request"


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    How an adapter came to be.

    Args:
        origin: Generated from text, imported, or merged from others.
        source: Where it was imported from, or the ids it was merged from.
        hypernet_id: The hypernetwork that wrote it; None for none, several or an unknown one.
    """

    origin: Origin = "generated"
    source: str | None = None
    hypernet_id: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """
    One adapter of one tenant.

    Args:
        id: Content id; the same for every tenant that holds the same tensors.
        base: Fingerprint of the base model it belongs to.
        base_model: That model's public name.
        size_bytes: Bytes of its files.
        delta_norm: Frobenius norm of the scaled delta-W over all modules and layers.
        description: The first text that reached it, empty when imported without one.
        hits: How often it was served.
        key: The row's number; it grows with each addition and is the cursor of pages.
    """

    key: int
    id: AdapterId
    tenant: str
    state: State
    base: str
    base_model: str
    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...]
    size_bytes: int
    delta_norm: float
    lineage: Lineage
    pinned: bool
    hits: int
    created_at: datetime
    last_used_at: datetime | None
    deleted_at: datetime | None
    description: str
    n_descriptions: int
    tags: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """
    One adapter found by a search.

    Args:
        adapter: The adapter.
        score: Exact cosine of its nearest description, in [-1, 1]; larger is nearer.
        description: That nearest description.
    """

    adapter: AdapterRecord
    score: float
    description: str


@dataclass(frozen=True, slots=True)
class Description:
    """One text that reached an adapter."""

    text: str
    source: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AliasSpan:
    """An alias and the time in which it named an adapter; ``until`` is None while it does."""

    tenant: str
    name: str
    adapter_id: AdapterId
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change of the library; ``hash`` covers the entry and the hash before it."""

    seq: int
    at: datetime
    actor: str
    tenant: str
    action: str
    subject: str
    detail: dict[str, object]
    hash: str
