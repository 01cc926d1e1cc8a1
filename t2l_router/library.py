"""The adapter library as the router sees it: one base model, one encoder, one hypernetwork."""

import hashlib
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters_store import AdapterFiles, AdapterRecord, AdapterStore, Hit, Lineage, Task
from adapters_store.calibrations import EVERYBODY, Calibration
from adapters_store.errors import AdapterNotFound, QuotaExceeded
from adapters_store.identity import AdapterId
from adapters_store.names import SHARED, text_hash
from adapters_store.quotas import Quota, generations
from t2l_router import policy
from t2l_router.calls import Calls
from t2l_router.errors import AdapterRefused, BudgetExceeded, UnknownAdapter
from t2l_router.policy import Thresholds

_THRESHOLDS_FOR_S = 60.0
_MAX_REF = 64
_LISTED = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What an adapter must match to serve here.

    Args:
        base: Fingerprint of the base model.
        encoder: Fingerprint of the encoder.
        hypernet_id: The hypernetwork.
    """

    base: str
    encoder: str
    hypernet_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Whether this router may write the adapter of a task.

    Args:
        lease: Its name.
        mine: Whether it may; otherwise another one is at it.
        record: What another one has written meanwhile.
    """

    lease: str
    mine: bool
    record: AdapterRecord | None = None


class Library:
    """
    Finds and keeps adapters; everything here runs in threads.

    Args:
        calls: Reaches the library.
        identity: What adapters must match.
        budget: Limits of tenants that have none of their own.
        lease_s: How long a claim is good for, should its holder die.
    """

    def __init__(
        self,
        calls: Calls,
        identity: Identity,
        *,
        budget: Quota = Quota(),  # noqa: B008 - frozen
        lease_s: float = 10.0,
    ) -> None:
        self.calls = calls
        self.identity = identity
        self._budget = budget
        self._lease = timedelta(seconds=lease_s)
        self._holder = uuid.uuid4().hex
        self._thresholds: dict[str, tuple[float, Thresholds]] = {}

    async def exact(self, text: str, *, tenant: str) -> AdapterRecord | None:
        """The adapter that this very text led to before, if this hypernetwork still does."""
        return await self.calls.run(lambda store: self._exact(store, text, tenant))

    async def search(
        self, embedding: NDArray[np.float32], *, tenant: str, at_least: float
    ) -> list[Hit]:
        """The nearest adapters; those that score less than *at_least* may be missing."""
        identity = self.identity
        return await self.calls.run(
            lambda store: store.search(
                embedding,
                tenant=tenant,
                base=identity.base,
                encoder=identity.encoder,
                hypernet_id=identity.hypernet_id,
                at_least=at_least,
            )
        )

    async def thresholds(self, *, tenant: str) -> Thresholds:
        """What was measured for this pair of encoder and hypernetwork; read once a minute."""
        read_at, thresholds = self._thresholds.get(tenant, (-math.inf, policy.UNCALIBRATED))
        if time.monotonic() - read_at < _THRESHOLDS_FOR_S:
            return thresholds
        encoder, hypernet_id = self.identity.encoder, self.identity.hypernet_id
        stored = await self.calls.run(
            lambda store: store.calibrations.get(encoder, hypernet_id, tenant=tenant)
        )
        thresholds = (
            policy.thresholds_for(encoder, hypernet_id) if stored is None else thresholds_of(stored)
        )
        if len(self._thresholds) >= 10_000:  # noqa: PLR2004 - tenants; any bound will do
            self._thresholds.clear()
        self._thresholds[tenant] = (time.monotonic(), thresholds)
        return thresholds

    async def find(self, ref: str, *, tenant: str) -> AdapterRecord:
        """
        The adapter of an id, the start of one, or an alias.

        Raises:
            UnknownAdapter: There is none, or it is another tenant's.
            AdapterRefused: It is quarantined, deleted or for another base model.
        """
        if len(ref) > _MAX_REF:
            raise UnknownAdapter(f"no adapter {ref[:_MAX_REF]!r}...; the name is too long")
        record = await self.calls.run(lambda store: _get(store, ref, tenant))
        if record.state in ("quarantined", "deleted"):
            raise AdapterRefused(
                f"adapter {record.id} is {record.state}; t2l adapters history says why"
            )
        if record.base != self.identity.base:
            raise AdapterRefused(
                f"adapter {record.id} was made for another base model "
                f"({record.base_model or record.base[:12]})"
            )
        return record

    async def directory(self, adapter_id: AdapterId, *, tenant: str) -> Path:
        """A local, checked PEFT directory of an adapter."""
        return await self.calls.run(lambda store: store.directory(adapter_id, tenant=tenant))

    async def names(self, *, tenant: str) -> list[str]:
        """The tenant's aliases, then the ids of its newest adapters; a hundred of each at most."""
        return await self.calls.run(lambda store: self._names(store, tenant))

    async def claim(self, text: str, *, tenant: str) -> Claim:
        """
        Try to become the one router that writes the adapter of a text.

        Raises:
            BudgetExceeded: The tenant's quota has no room for another generation.
        """
        return await self.calls.run(lambda store: self._claim(store, text, tenant))

    async def release(self, claim: Claim, *, tenant: str) -> None:
        """Let others write it; the attempt counts as a generation."""

        def drop(store: AdapterStore) -> None:
            try:
                store.quotas.count_generation(tenant, "not kept")
            finally:
                store.leases.release(claim.lease, self._holder)

        await self.calls.run(drop, behind=True)

    async def state_of(self, adapter_id: AdapterId, *, tenant: str) -> str | None:
        """The state of the tenant's adapter of this id, if there is one that is not deleted."""

        def state(store: AdapterStore) -> str | None:
            try:
                return store.get(adapter_id, tenant=tenant).state
            except AdapterNotFound:
                return None

        return await self.calls.run(state)

    async def keep(
        self,
        files: AdapterFiles,
        task: Task,
        *,
        tenant: str,
        claim: Claim | None,
        doubts: Mapping[str, float | int] | None = None,
    ) -> AdapterRecord:
        """Store a new adapter, in quarantine if there are doubts, then let go of the claim."""

        def add(store: AdapterStore) -> AdapterRecord:
            try:
                return store.add(
                    files,
                    tenant=tenant,
                    base=self.identity.base,
                    task=task,
                    lineage=Lineage(hypernet_id=self.identity.hypernet_id),
                    doubts=doubts,
                )
            finally:
                if claim is not None:
                    store.leases.release(claim.lease, self._holder)

        return await self.calls.run(add, behind=True)

    async def describe(
        self, adapter_id: AdapterId, task: Task, *, tenant: str, claim: Claim | None
    ) -> None:
        """Remember one more text that reached the tenant's adapter, then let go of the claim."""

        def add(store: AdapterStore) -> None:
            try:
                store.add_description(adapter_id, task, tenant=tenant)
                if claim is not None:
                    store.quotas.count_generation(tenant, "a held adapter does the same")
            finally:
                if claim is not None:
                    store.leases.release(claim.lease, self._holder)

        await self.calls.run(add, behind=True)

    def _exact(self, store: AdapterStore, text: str, tenant: str) -> AdapterRecord | None:
        return store.exact(
            text,
            tenant=tenant,
            base=self.identity.base,
            encoder=self.identity.encoder,
            hypernet_id=self.identity.hypernet_id,
        )

    def _claim(self, store: AdapterStore, text: str, tenant: str) -> Claim:
        lease = _lease_name(tenant, text, self.identity)
        # Looked up before the lease and after it: whoever held it has written the adapter by then.
        if store.leases.holder(lease) is not None:
            return Claim(lease, mine=False)
        try:
            mine = store.quotas.reserve_generation(
                lease, self._holder, ttl=self._lease, tenant=tenant, default=self._budget
            )
        except QuotaExceeded as error:
            if record := self._exact(store, text, tenant):
                return Claim(lease, mine=False, record=record)
            raise BudgetExceeded(str(error)) from error
        record = self._exact(store, text, tenant)
        if mine and record is not None:
            store.leases.release(lease, self._holder)
        return Claim(lease, mine=mine and record is None, record=record)

    def _names(self, store: AdapterStore, tenant: str) -> list[str]:
        aliases = [span.name for span in store.aliases.current(tenant=tenant)[:_LISTED]]
        records = store.page(tenant=tenant, limit=_LISTED)
        fit = [record for record in records if record.base == self.identity.base]
        return [*aliases, *(record.id for record in fit if record.state != "quarantined")]


def _get(store: AdapterStore, ref: str, tenant: str) -> AdapterRecord:
    try:
        return store.get(ref, tenant=tenant)
    except AdapterNotFound as error:
        try:
            return store.get(ref, tenant=tenant, deleted=True)
        except AdapterNotFound:
            why = str(error).partition(";")[0]
            raise UnknownAdapter(f"{why}; /v1/models lists those held") from None


def _lease_name(tenant: str, text: str, identity: Identity) -> str:
    parts = (tenant, text_hash(text), identity.base, identity.hypernet_id)
    return f"{generations(tenant)}{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def thresholds_of(stored: Calibration) -> Thresholds:
    """Stored thresholds as the policy takes them."""

    def least(value: float | None) -> float:
        return math.inf if value is None else value

    return Thresholds(
        score=least(stored.score),
        margin=least(stored.margin),
        verify_score=least(stored.verify_score),
        max_distance=stored.max_distance,
        encoder=stored.encoder,
        hypernet_id=stored.hypernet_id,
    )


def calibration_of(thresholds: Thresholds, *, tenant: str | None, source: str) -> Calibration:
    """
    Thresholds as they are stored.

    Args:
        thresholds: With the encoder and hypernetwork they were measured for.
        tenant: For whom; None for everybody.
        source: How they were measured, for people.
    """

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return Calibration(
        encoder=thresholds.encoder,
        hypernet_id=thresholds.hypernet_id,
        score=finite(thresholds.score),
        margin=finite(thresholds.margin),
        verify_score=finite(thresholds.verify_score),
        max_distance=thresholds.max_distance,
        source=source,
        tenant=tenant or EVERYBODY,
    )


def is_own(hit: Hit) -> bool:
    """Whether the adapter is the tenant's own, so that it can be given another description."""
    return hit.adapter.tenant != SHARED
