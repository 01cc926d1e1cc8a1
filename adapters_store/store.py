"""The only door to the adapter library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from adapters_store import additions, audit, catalog, changes, filters, searching
from adapters_store.aliases import Aliases
from adapters_store.blobs import blob_files, open_blobs
from adapters_store.calibrations import Calibrations
from adapters_store.database import Database
from adapters_store.decisions import Decisions
from adapters_store.dedupe import Dedupe
from adapters_store.delta import check_shapes, delta_norm
from adapters_store.identity import AdapterId
from adapters_store.index import VectorIndex
from adapters_store.indexing import Indexing
from adapters_store.keys import Keys
from adapters_store.leases import Leases
from adapters_store.ledger import Ledger
from adapters_store.location import StoreConfig, open_index
from adapters_store.maintenance import Maintenance
from adapters_store.names import check_name
from adapters_store.peft_files import AdapterFiles
from adapters_store.quotas import Quotas
from adapters_store.records import AdapterRecord, AuditEntry, Description, Hit, Lineage, State, Task
from adapters_store.reembed import Reembedding
from adapters_store.reports import Reports
from adapters_store.schema import descriptions
from adapters_store.sessions import Sessions
from adapters_store.spending import Spending
from adapters_store.traffic import Traffic
from adapters_store.transfer import export_files


class AdapterStore:
    """
    The adapters of all tenants: their weights, descriptions and names.

    SQL is the truth. `add` writes the blob, then the row; the index follows by itself. Whatever a
    call has returned survives a crash at any later moment.

    Every *ref* is an adapter id, the start of one, or an alias. Every *tenant* sees its own
    adapters and the shared ones, and changes its own only.
    """

    def __init__(self, ledger: Ledger, index: VectorIndex) -> None:
        self.ledger = ledger
        self.index = index
        self.aliases = Aliases(ledger)
        self.quotas = Quotas(ledger)
        self.keys = Keys(ledger)
        self.spending = Spending(ledger)
        self.leases = Leases(ledger)
        self.sessions = Sessions(ledger)
        self.decisions = Decisions(ledger)
        self.traffic = Traffic(ledger)
        self.calibrations = Calibrations(ledger)
        self.maintenance = Maintenance(ledger)
        self.reports = Reports(ledger)
        self.dedupe = Dedupe(ledger)
        self.indexing = Indexing(ledger, index)
        self.reembedding = Reembedding(ledger)

    @classmethod
    def open(cls, config: StoreConfig) -> Self:
        """
        Open a library, creating it where there is none.

        Raises:
            InvalidInput: There is no such kind of database, index or URL.
            SchemaOutdated: Its tables are of another version of t2l.
            StoreUnavailable: The database or the disk can't be used.
        """
        database = Database(config.database_url)
        try:
            database.open_schema()
            blobs = open_blobs(
                config.blobs_url,
                cache_dir=config.cache_dir / "adapters",
                options=dict(config.blobs_options),
            )
            return cls(Ledger(database, blobs, config.actor), open_index(config, database))
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Save the index's cache and close the database."""
        self.index.close()
        self.ledger.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acting_as(self, actor: str) -> "AdapterStore":
        """The same library, with another name in the audit log."""
        ledger = Ledger(self.ledger.database, self.ledger.blobs, actor)
        return AdapterStore(ledger, self.index)

    # --- adding -----------------------------------------------------------------------------

    def add(
        self,
        files: AdapterFiles,
        *,
        tenant: str,
        base: str,
        task: Task | None = None,
        lineage: Lineage = Lineage(),  # noqa: B008 - frozen
        expected_shapes: Mapping[str, tuple[int, int]] | None = None,
        doubts: Mapping[str, float | int] | None = None,
    ) -> AdapterRecord:
        """
        Add an adapter; adding it again returns it and at most adds the description.

        Args:
            files: Its two PEFT files.
            tenant: Whose it is; nobody else sees it until it is promoted.
            base: Fingerprint of its base model.
            task: What it is for; without it, or told by examples, no search finds the adapter.
            lineage: How it came to be.
            expected_shapes: Module path -> (d_in, d_out) of the base model, to refuse adapters
                of another one.
            doubts: What speaks against a generated adapter: it enters quarantine with that in the
                audit log.

        Returns:
            The adapter as it is in the library now.

        Raises:
            InvalidImport: The files are no sound LoRA adapter.
            EncoderMismatch: The library is indexed by another encoder than the task's.
            QuotaExceeded: The tenant has no room for it.
        """
        check_name("tenant", tenant)
        if task is not None:
            additions.check_task(task)
        files = files.canonical()
        check_shapes(files, expected_shapes)
        new = additions.NewAdapter(
            id=files.adapter_id(base),
            tenant=tenant,
            base=base,
            settings=files.settings,
            size_bytes=files.size_bytes,
            delta_norm=delta_norm(files),
            lineage=lineage,
            doubts=doubts,
        )
        blobs = self.ledger.blobs
        blobs.put(new.id, base, files)
        with self.ledger.change() as change:
            row = additions.insert_adapter(change, new)
            if task is not None:
                additions.insert_task(change, row, task)
            # A prune may have removed an old orphan of the same content since `put` saw it.
            blobs.put(new.id, base, files)
            return catalog.record(catalog.by_key(change.connection, row.pk))

    def add_description(self, ref: str, task: Task, *, tenant: str) -> AdapterRecord:
        """Remember one more text that reached the tenant's adapter."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, shared=False)
            additions.insert_task(change, row, task)
            return catalog.record(catalog.by_key(change.connection, row.pk))

    # --- reading ----------------------------------------------------------------------------

    def get(self, ref: str, *, tenant: str, deleted: bool = False) -> AdapterRecord:
        """One adapter. Raises `AdapterNotFound`."""
        with self.ledger.read() as connection:
            row = catalog.find(connection, ref, tenant=tenant, deleted=deleted)
            return catalog.record(row)

    def files(self, ref: str, *, tenant: str) -> AdapterFiles:
        """An adapter's files, checked against its id. Raises `AdapterCorrupt`."""
        return self.ledger.blobs.get(self.get(ref, tenant=tenant).id)

    def directory(self, ref: str, *, tenant: str) -> Path:
        """A local, checked PEFT directory of an adapter. Raises `AdapterCorrupt`."""
        return self.ledger.blobs.directory(self.get(ref, tenant=tenant).id)

    def export(self, ref: str, *, tenant: str) -> Mapping[str, bytes]:
        """An adapter's exported files by name. Raises `AdapterCorrupt`."""
        record = self.get(ref, tenant=tenant)
        texts = [text.text for text in self.descriptions(record.id, tenant=tenant)]
        return export_files(record, self.ledger.blobs.get(record.id), texts)

    def blob(self, adapter_id: AdapterId) -> Mapping[str, bytes]:
        """Files by name, for engine servers: whose adapter it is doesn't matter, nor is it told."""
        with self.ledger.read() as connection:
            base = catalog.base_of(connection, adapter_id)
        return blob_files(adapter_id, base, self.ledger.blobs.get(adapter_id))

    def descriptions(self, ref: str, *, tenant: str) -> list[Description]:
        """Every text that reached an adapter, oldest first."""
        with self.ledger.read() as connection:
            row = catalog.find(connection, ref, tenant=tenant)
            texts = connection.execute(
                select(descriptions)
                .where(descriptions.c.adapter_pk == row.pk)
                .order_by(descriptions.c.id)
            )
            return [Description(text.text, text.source, text.created_at) for text in texts]

    def page(
        self,
        expressions: Sequence[str] = (),
        *,
        tenant: str | None = None,
        limit: int | None = 50,
        after: int | None = None,
    ) -> list[AdapterRecord]:
        """
        A page of adapters, newest first.

        Args:
            expressions: Filters; `filters.conditions` has the grammar.
            tenant: Whose adapters, with the shared ones; None for everybody's (operators only).
            limit: Adapters of the page; None for all.
            after: The `AdapterRecord.key` of the last adapter of the page before.
        """
        with self.ledger.read() as connection:
            wanted = filters.conditions(expressions, now=self.ledger.database.now(connection))
            if tenant is not None:
                wanted.append(catalog.visible_to(tenant))
            rows = catalog.newest(connection, wanted, limit=limit, before=after)
            return [catalog.record(row) for row in rows]

    def search(
        self,
        embedding: NDArray[np.float32],
        *,
        tenant: str,
        base: str,
        encoder: str,
        hypernet_id: str | None = None,
        k: int = 5,
        at_least: float = -1.0,
    ) -> list[Hit]:
        """
        The *k* adapters whose nearest description is nearest to a task embedding.

        Args:
            embedding: ``[D]`` float32, unit L2 norm.
            tenant: Only its own and the shared adapters are looked at.
            base: Fingerprint of the base model that will serve.
            encoder: Fingerprint of the encoder that made *embedding*.
            hypernet_id: Leave out what other hypernetworks wrote, unless it was imported,
                approved, pinned or given an alias; None leaves nothing out.
            k: How many adapters at most.
            at_least: Cosine below which no adapter is worth looking further for, in [-1, 1] or
                infinite; those that are found on the way are returned all the same.

        Returns:
            Nearest first; quarantined and deleted adapters are never among them.

        Raises:
            EncoderMismatch: The library is indexed by another encoder.
            DimensionMismatch: The embedding is unsound.
        """
        return searching.search(
            self.ledger.database,
            self.index,
            embedding,
            tenant=tenant,
            base=base,
            encoder=encoder,
            hypernet_id=hypernet_id,
            k=k,
            at_least=at_least,
        )

    def exact(
        self, text: str, *, tenant: str, base: str, encoder: str, hypernet_id: str | None = None
    ) -> AdapterRecord | None:
        """The adapter that this text reached before, whatever its case; arguments as `search`'s."""
        with self.ledger.read() as connection:
            row = searching.exact(
                connection,
                text,
                tenant=tenant,
                base=base,
                encoder=encoder,
                hypernet_id=hypernet_id,
            )
            return None if row is None else catalog.record(row)

    def history(
        self,
        subject: str | None = None,
        *,
        tenant: str | None = None,
        limit: int | None = 50,
        before: int | None = None,
    ) -> list[AuditEntry]:
        """
        What happened, newest first.

        Args:
            subject: To this adapter; None for any.
            tenant: To this tenant's; None for everybody's (operators only).
            limit: Entries at most; None for all.
            before: The `AuditEntry.seq` of the last entry of the page before.
        """
        with self.ledger.read() as connection:
            return audit.entries(
                connection, subject=subject, tenant=tenant, limit=limit, before=before
            )

    def check_removable(self, refs: Sequence[str], *, tenant: str) -> None:
        """Raise what `delete` would raise for any of the tenant's adapters, changing nothing."""
        with self.ledger.read() as connection:
            for ref in refs:
                changes.check_removable(catalog.find(connection, ref, tenant=tenant, shared=False))

    # --- changing ---------------------------------------------------------------------------

    def delete(self, ref: str, *, tenant: str) -> list[str]:
        """
        Take an adapter out of service; `undelete` brings it back until `prune` removes it.

        Returns:
            The aliases that ended with it.

        Raises:
            AdapterPinned: It is pinned.
        """
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, shared=False)
            return changes.delete(change, row)

    def undelete(self, ref: str, *, tenant: str) -> AdapterRecord:
        """Bring a deleted adapter back; its aliases stay ended."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, deleted=True, shared=False)
            changes.undelete(change, row)
            return catalog.record(catalog.by_key(change.connection, row.pk))

    def set_state(self, ref: str, state: State, *, tenant: str) -> AdapterRecord:
        """Approve an adapter, put it into quarantine, or take the judgement back."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, shared=False)
            changes.set_state(change, row, state)
            return catalog.record(catalog.by_key(change.connection, row.pk))

    def pin(self, ref: str, *, tenant: str, pinned: bool = True) -> AdapterRecord:
        """Protect an adapter from every kind of removal, or end that."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, shared=False)
            changes.set_pinned(change, row, pinned=pinned)
            return catalog.record(catalog.by_key(change.connection, row.pk))

    def tag(
        self, ref: str, *, tenant: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> AdapterRecord:
        """Add and remove tags of an adapter."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant, shared=False)
            changes.tag(change, row, add=set(add), remove=set(remove))
            return catalog.record(catalog.by_key(change.connection, row.pk))

    def promote(self, ref: str, *, tenant: str) -> AdapterRecord:
        """Give an adapter to every tenant: an approved copy of its row; the weights are shared."""
        with self.ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant)
            return catalog.record(changes.promote(change, row))

    def record_uses(self, uses: Mapping[AdapterId, int], *, tenant: str) -> None:
        """Count that adapters were served; ids that are gone are passed over."""
        with self.ledger.change() as change:
            changes.record_uses(change, uses, tenant=tenant)
