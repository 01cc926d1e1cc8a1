"""Keeping the library sound and small: verify re-hashes everything, prune removes what may go."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqlalchemy import Connection, func, select

from adapters_store import audit, catalog, changes, filters
from adapters_store.blobs import Stray
from adapters_store.errors import AdapterCorrupt, AuditBroken
from adapters_store.identity import AdapterId
from adapters_store.ledger import Ledger
from adapters_store.names import ADAPTER_ID
from adapters_store.quotas import Quota, quota_of
from adapters_store.schema import adapters

ProblemKind = Literal["corrupt", "orphan", "unfinished", "audit"]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Something that `Maintenance.verify` found.

    Args:
        subject: The adapter or path.
        kind: ``corrupt`` files, an ``orphan`` that no adapter refers to, an ``unfinished`` write
            of a killed process, or a broken ``audit`` log. Orphans and unfinished writes are
            harmless; `prune` removes them.
        detail: What is wrong, for the operator.
        size_bytes: Disk space it takes.
    """

    subject: str
    kind: ProblemKind
    detail: str
    size_bytes: int = 0

    @property
    def harmless(self) -> bool:
        """Whether nothing that was acknowledged is affected."""
        return self.kind in ("orphan", "unfinished")


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `Maintenance.verify` checked and found."""

    adapters: int
    size_bytes: int
    audit_entries: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class PrunePolicy:
    """
    What `Maintenance.plan` may remove.

    Args:
        expressions: Filters; adapters that fit all of them are deleted (`undelete` works). Empty
            for none.
        to_quota: Delete each tenant's least recently used adapters until it fits its quota.
        tenant: Look at this tenant only; None for all.
        purge_after: Adapters deleted longer ago vanish for good, with their files.
        stray_after: Orphans and unfinished writes older than this vanish; younger ones may belong
            to a writer at work.
    """

    expressions: tuple[str, ...] = ()
    to_quota: bool = False
    tenant: str | None = None
    purge_after: timedelta = timedelta(days=7)
    stray_after: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PruneStep:
    """
    One thing to remove.

    Args:
        subject: The adapter or path.
        tenant: Whose adapter it is; empty for strays.
        action: ``delete`` (can be undone), ``purge`` (with its files) or ``remove`` (a stray).
        reason: Why it may go.
        size_bytes: Its size.
    """

    subject: str
    tenant: str
    action: Literal["delete", "purge", "remove"]
    reason: str
    size_bytes: int


class Maintenance:
    """Verification and removal."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def verify(self, *, on_adapter: Callable[[int, int], None] | None = None) -> VerifyReport:
        """
        Re-hash every adapter and audit entry, and look for what belongs to no adapter.

        Args:
            on_adapter: Called with the numbers of adapters checked and in all.
        """
        problems: list[Problem] = []
        with self._ledger.read() as connection:
            known = _known(connection)
            try:
                entries = audit.verify(connection)
            except AuditBroken as error:
                entries = 0
                problems.append(Problem("audit log", "audit", str(error)))
        size_bytes = 0
        for done, (adapter_id, base) in enumerate(sorted(known.items()), start=1):
            try:
                size_bytes += self._checked_size(adapter_id, base)
            except AdapterCorrupt as error:
                # Purged since the list was read: nothing is wrong.
                if self._is_known(adapter_id):
                    problems.append(Problem(adapter_id, "corrupt", str(error)))
            if on_adapter is not None:
                on_adapter(done, len(known))
        problems += [_orphan(stray) for stray in self._orphans(set(known))]
        problems += [_unfinished(stray) for stray in self._ledger.blobs.strays()]
        return VerifyReport(len(known), size_bytes, entries, tuple(problems))

    def plan(self, policy: PrunePolicy) -> list[PruneStep]:
        """Everything that `apply` would remove, without removing anything."""
        with self._ledger.read() as connection:
            now = self._ledger.database.now(connection)
            steps = []
            if policy.expressions:
                wanted = [*filters.conditions(policy.expressions, now=now), catalog.removable()]
                reason = " ".join(policy.expressions)
                rows = catalog.newest(connection, [*wanted, *_of(policy.tenant)], limit=None)
                steps += [_step(row, "delete", reason) for row in rows if row.state != "deleted"]
            if policy.to_quota:
                steps += _over_quota(connection, policy.tenant, {s.subject for s in steps})
            old = [adapters.c.state == "deleted", adapters.c.deleted_at <= now - policy.purge_after]
            gone = catalog.newest(connection, [*old, *_of(policy.tenant)], limit=None)
            steps += [_step(row, "purge", f"deleted {row.deleted_at:%F}") for row in gone]
            known = set(_known(connection))
        if policy.tenant is None:
            oldest = policy.stray_after.total_seconds()
            strays = [*self._orphans(known), *self._ledger.blobs.strays()]
            steps += [
                PruneStep(stray.name, "", "remove", "belongs to no adapter", stray.size_bytes)
                for stray in strays
                if stray.age_s >= oldest
            ]
        return steps

    def apply(self, steps: Sequence[PruneStep]) -> list[PruneStep]:
        """
        Carry out a plan, leaving out what has changed since.

        Returns:
            The steps that were carried out.
        """
        acts = {"delete": self._delete, "purge": self._purge, "remove": self._remove}
        return [step for step in steps if acts[step.action](step)]

    def _delete(self, step: PruneStep) -> bool:
        with self._ledger.change() as change:
            row = change.connection.execute(
                select(adapters).where(
                    adapters.c.tenant == step.tenant,
                    adapters.c.id == step.subject,
                    adapters.c.state != "deleted",
                    catalog.removable(),
                )
            ).first()
            if row is not None:
                changes.delete(change, row, because=f"prune: {step.reason}")
            return row is not None

    def _purge(self, step: PruneStep) -> bool:
        with self._ledger.change() as change:
            purged = change.connection.execute(
                adapters.delete().where(
                    adapters.c.tenant == step.tenant,
                    adapters.c.id == step.subject,
                    adapters.c.state == "deleted",
                )
            )
            if purged.rowcount == 0:
                return False
            change.log(step.tenant, "purge", step.subject, reason=step.reason)
        # First the row for good, then the files: a crash in between leaves a harmless orphan.
        self._delete_blob(AdapterId(step.subject))
        return True

    def _remove(self, step: PruneStep) -> bool:
        if ADAPTER_ID.fullmatch(step.subject):
            return self._delete_blob(AdapterId(step.subject))
        self._ledger.blobs.remove_stray(Stray(step.subject, step.size_bytes, 0))
        return True

    def _delete_blob(self, adapter_id: AdapterId) -> bool:
        # As the only writer: nobody can add a row for these files meanwhile.
        with self._ledger.change() as change:
            if _refers(change.connection, adapter_id):
                return False
            self._ledger.blobs.delete(adapter_id)
            return True

    def _checked_size(self, adapter_id: AdapterId, base: str) -> int:
        files = self._ledger.blobs.get(adapter_id)
        if files.adapter_id(base) != adapter_id:
            raise AdapterCorrupt(f"adapter {adapter_id}: the database names another base model")
        return files.size_bytes

    def _is_known(self, adapter_id: AdapterId) -> bool:
        with self._ledger.read() as connection:
            return _refers(connection, adapter_id)

    def _orphans(self, known: Iterable[str]) -> list[Stray]:
        known = set(known)
        strays = [stray for stray in self._ledger.blobs.published() if stray.name not in known]
        # An adapter may have been added since *known* was read.
        return [stray for stray in strays if not self._is_known(AdapterId(stray.name))]


def _known(connection: Connection) -> dict[AdapterId, str]:
    rows = connection.execute(select(adapters.c.id, adapters.c.base).distinct())
    return {AdapterId(row.id): row.base for row in rows}


def _refers(connection: Connection, adapter_id: AdapterId) -> bool:
    query = select(func.count()).where(adapters.c.id == adapter_id)
    return bool(connection.execute(query).scalar_one())


def _of(tenant: str | None) -> list[catalog.Condition]:
    return [] if tenant is None else [adapters.c.tenant == tenant]


def _over_quota(connection: Connection, tenant: str | None, leaving: set[str]) -> list[PruneStep]:
    """Of each tenant over its quota, the least recently used adapters that make it fit again."""
    last_used = func.coalesce(adapters.c.last_used_at, adapters.c.created_at)
    conditions = [adapters.c.state != "deleted", *_of(tenant)]
    by_tenant: dict[str, list[catalog.AdapterRow]] = defaultdict(list)
    query = select(adapters, catalog.removable().label("may_go")).where(*conditions)
    for row in connection.execute(query.order_by(last_used, adapters.c.pk)):
        if row.id not in leaving:
            by_tenant[row.tenant].append(row)
    steps = []
    for name, rows in sorted(by_tenant.items()):
        quota = quota_of(connection, name)
        count, size = len(rows), sum(row.size_bytes for row in rows)
        for row in rows:
            if not _exceeds(quota, count, size):
                break
            if row.may_go:
                steps.append(_step(row, "delete", "over quota, least recently used"))
                count, size = count - 1, size - row.size_bytes
    return steps


def _exceeds(quota: Quota, count: int, size_bytes: int) -> bool:
    too_many = quota.max_adapters is not None and count > quota.max_adapters
    return too_many or (quota.max_bytes is not None and size_bytes > quota.max_bytes)


def _step(row: catalog.AdapterRow, action: Literal["delete", "purge"], reason: str) -> PruneStep:
    return PruneStep(row.id, row.tenant, action, reason, row.size_bytes)


def _orphan(stray: Stray) -> Problem:
    detail = "no adapter refers to these files; t2l adapters prune removes them"
    return Problem(stray.name, "orphan", detail, stray.size_bytes)


def _unfinished(stray: Stray) -> Problem:
    detail = "a write that never finished; t2l adapters prune removes it"
    return Problem(stray.name, "unfinished", detail, stray.size_bytes)
