"""Adapters from outside: whether they fit here, and into the library with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store import AdapterRecord, AdapterStore, Lineage, Task
from adapters_store.errors import InvalidImport
from adapters_store.imports import Foreign
from adapters_store.records import EXAMPLES
from t2l_router.describe import validated
from t2l_router.examples import is_label


@dataclass(frozen=True, slots=True)
class Fit:
    """
    What an adapter must fit to serve here.

    Args:
        model: The base model's name, for people.
        base: Its fingerprint.
        encoder: Fingerprint of the encoder of descriptions.
        shapes: Module path -> (d_in, d_out) of what adapters may change.
    """

    model: str
    base: str
    encoder: str
    shapes: Mapping[str, tuple[int, int]]

    def check(self, foreign: Foreign) -> None:
        """Raise `InvalidImport` if the adapter says that it is for another base model."""
        manifest = foreign.manifest
        if manifest is not None and manifest.base != self.base:
            raise InvalidImport(
                f"{foreign.source} was made for a base model with fingerprint "
                f"{manifest.base[:16]}; {self.model} here has {self.base[:16]}"
            )


def texts_of(foreign: Foreign, given: Sequence[str] = ()) -> list[str]:
    """The descriptions to remember it by: those *given*, else those of its manifest."""
    own = foreign.manifest.descriptions if foreign.manifest else ()
    return [validated(text) for text in given] or [remembered(text) for text in own]


def remembered(text: str, *, param: str | None = None) -> str:
    """A description, validated, or the name of a task that examples tell, which no request has."""
    return text if is_label(text) else validated(text, param=param)


def tasks_of(texts: Sequence[str], embeddings: NDArray[np.float32], fit: Fit) -> list[Task]:
    """Descriptions with their embeddings ``[N, D]``, as the library takes them."""
    return [
        Task(text, None, fit.encoder, EXAMPLES)
        if is_label(text)
        else Task(text, embedding, fit.encoder, "import")
        for text, embedding in zip(texts, embeddings, strict=True)
    ]


def take_in(
    store: AdapterStore, foreign: Foreign, tasks: Sequence[Task], *, tenant: str, fit: Fit
) -> AdapterRecord:
    """
    Add a foreign adapter to a tenant's; without a task no search finds it.

    Raises:
        InvalidImport: It is not for the base model that is served here.
        QuotaExceeded: The tenant has no room for it.
    """
    fit.check(foreign)
    manifest = foreign.manifest
    record = store.add(
        foreign.files,
        tenant=tenant,
        base=fit.base,
        task=tasks[0] if tasks else None,
        lineage=Lineage("imported", foreign.source, manifest.hypernet_id if manifest else None),
        expected_shapes=fit.shapes,
    )
    for task in tasks[1:]:
        record = store.add_description(record.id, task, tenant=tenant)
    return record
