"""Routes that keep the library sound and small: verify, prune, duplicates, merge."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, StrictBool, StrictInt

from adapters_store.dedupe import Cluster, Kind
from adapters_store.errors import Conflict
from adapters_store.maintenance import PrunePolicy, PruneStep, VerifyReport
from adapters_store.records import AdapterRecord
from t2l_router.admin.acting import MOST, Acting, Body, Filter, Name, Ref, Routes, require_operator

_YEAR_S = 366 * 86_400
_WEEK_S = 7 * 86_400


class Pruning(Body):
    """What may be removed; without *apply* it is only told."""

    filters: list[Filter] = Field([], max_length=20)
    to_quota: StrictBool = False
    purge_after_s: StrictInt = Field(_WEEK_S, ge=0, le=10 * _YEAR_S)
    stray_after_s: StrictInt = Field(3_600, ge=60, le=10 * _YEAR_S)
    apply: StrictBool = False


class Merging(Body):
    """Adapters that another one takes the place of."""

    others: list[Ref] = Field(min_length=1, max_length=MOST)
    by: Literal["delta", "text"] = "delta"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be."""

    applied: bool
    steps: list[PruneStep]


class UpkeepRoutes(Routes):
    """
    The routes; those that read everything run one at a time.

    Args:
        acting: Knows for whom requests act.
    """

    def __init__(self, acting: Acting) -> None:
        super().__init__(acting)
        self._busy = threading.Lock()

    def verify(self, request: Request) -> VerifyReport:
        """Re-hash every adapter and audit entry; the operator's right alone."""
        store, _ = self._acting.for_all(request, None)
        require_operator(request, "verifies the library")
        with self._alone():
            return store.maintenance.verify()

    def prune(self, request: Request, body: Pruning, tenant: Name | None = None) -> Pruned:
        """Free the space of adapters that were deleted long ago, and delete those that fit."""
        store, whose = self._acting.for_all(request, tenant)
        policy = PrunePolicy(
            tuple(body.filters),
            body.to_quota,
            whose,
            timedelta(seconds=body.purge_after_s),
            timedelta(seconds=body.stray_after_s),
        )
        with self._alone():
            steps = store.maintenance.plan(policy)
            return Pruned(body.apply, store.maintenance.apply(steps) if body.apply else steps)

    def duplicates(
        self,
        request: Request,
        tenant: Name | None = None,
        by: Kind = "delta",
        threshold: Annotated[float, Query(gt=0, le=1)] = 0.98,
    ) -> list[Cluster]:
        """Adapters of a tenant that do the same."""
        store, whose = self._acting.for_one(request, tenant)
        with self._alone():
            return store.dedupe.clusters(by, tenant=whose, threshold=threshold)

    def merge(
        self, request: Request, ref: Ref, body: Merging, tenant: Name | None = None
    ) -> AdapterRecord:
        """Let an adapter take over the descriptions and aliases of others, which are deleted."""
        store, whose = self._acting.for_one(request, tenant)
        keep = store.get(ref, tenant=whose)
        others = tuple(store.get(other, tenant=whose) for other in body.others)
        if keep.id in {other.id for other in others} or len(set(others)) < len(others):
            raise Conflict("an adapter can't be merged into itself, nor twice")
        if {other.base for other in others} != {keep.base}:
            raise Conflict("adapters of different base models can't be merged")
        store.dedupe.merge(Cluster(body.by, keep, others, 1.0))
        return store.get(keep.id, tenant=whose)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise Conflict("the library is being looked through for somebody else; try again")
        try:
            yield
        finally:
            self._busy.release()


def add_routes(router: APIRouter, acting: Acting) -> None:
    """Add every route to *router*."""
    upkeep = UpkeepRoutes(acting)
    upkeep.add(
        router,
        {
            "POST /verify": upkeep.verify,
            "POST /prune": upkeep.prune,
            "GET /duplicates": upkeep.duplicates,
            "POST /adapters/{ref}/merge": upkeep.merge,
        },
    )
