"""The adapters of a server's library."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Self

from adapters_store import transfer
from adapters_store.blobs import MANIFEST_FILE
from adapters_store.errors import Conflict, InvalidImport, InvalidInput
from adapters_store.imports import LIMITS, Foreign, capped, manifest_bytes
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE
from adapters_store.records import AdapterRecord, AuditEntry, Description, Hit, State
from t2l_router.examples import Pair, wire_form
from t2l_router.remote.aliases import RemoteAliases
from t2l_router.remote.connection import Connection, adapter_path
from t2l_router.remote.tenants import RemoteKeys, RemoteQuotas, RemoteReports, RemoteSpending
from t2l_router.remote.upkeep import RemoteDedupe, RemoteMaintenance

_CARD = "README.md"


class RemoteStore:
    """
    Does what `adapters_store.AdapterStore` does under the same names, on a server.

    Args:
        url: The server's address, with or without ``/v1``.
        api_key: Of scope ``admin``.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._server = server = Connection(url, api_key)
        self.aliases = RemoteAliases(server)
        self.reports = RemoteReports(server)
        self.quotas = RemoteQuotas(server)
        self.keys = RemoteKeys(server)
        self.spending = RemoteSpending(server)
        self.maintenance = RemoteMaintenance(server)
        self.dedupe = RemoteDedupe(server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def get(self, ref: str, *, tenant: str | None, deleted: bool = False) -> AdapterRecord:
        """One adapter."""
        params = {"tenant": tenant, "deleted": deleted}
        return self._server.call(AdapterRecord, "GET", adapter_path(ref), params=params)

    def descriptions(self, ref: str, *, tenant: str | None) -> list[Description]:
        """Every text that reached an adapter, the oldest first."""
        path = f"{adapter_path(ref)}/descriptions"
        return self._server.call(list[Description], "GET", path, params={"tenant": tenant})

    def page(
        self,
        expressions: Sequence[str] = (),
        *,
        tenant: str | None = None,
        limit: int | None = 50,
    ) -> list[AdapterRecord]:
        """The newest adapters, fetched page by page."""
        return self._server.pages(
            AdapterRecord, "/adapters", limit, filter=list(expressions), tenant=tenant
        )

    def history(
        self, subject: str | None = None, *, tenant: str | None = None, limit: int | None = 50
    ) -> list[AuditEntry]:
        """Who did what, the newest first."""
        return self._server.pages(AuditEntry, "/history", limit, tenant=tenant, ref=subject)

    def find(self, text: str, *, tenant: str | None, k: int = 5) -> list[Hit]:
        """The adapters whose descriptions are nearest to a text, by the server's encoder."""
        body = {"text": text, "limit": k}
        return self._server.call(list[Hit], "POST", "/search", params={"tenant": tenant}, json=body)

    def create(
        self, description: str | None, pairs: Sequence[Pair] = (), *, tenant: str | None
    ) -> AdapterRecord:
        """Make sure that a task has an adapter: of a description, of examples, or of both."""
        body: dict[str, Any] = {} if description is None else {"description": description}
        if pairs:
            body["examples"] = wire_form(pairs)
        return self._server.call(
            AdapterRecord, "POST", "/adapters", params={"tenant": tenant}, json=body
        )

    def take_in(self, foreign: Foreign, *, tenant: str | None) -> AdapterRecord:
        """Add a foreign adapter without its descriptions, which `describe` gives it."""
        contents = {CONFIG_FILE: foreign.files.config, WEIGHTS_FILE: foreign.files.weights}
        if foreign.manifest is not None:
            contents[MANIFEST_FILE] = manifest_bytes(foreign.manifest)
        try:
            return self._server.call(
                AdapterRecord,
                "POST",
                "/adapters/import",
                params={"tenant": tenant},
                content=transfer.zipped(contents),
                headers={"content-type": "application/zip"},
                timeout_s=None,
            )
        except InvalidInput as error:  # as the library itself refuses it
            raise InvalidImport(str(error)) from None

    def describe(self, ref: str, text: str, *, tenant: str | None) -> AdapterRecord:
        """Give an adapter one more description."""
        return self._change("POST", ref, "descriptions", tenant, description=text)

    def export(self, ref: str, *, tenant: str | None) -> Mapping[str, bytes]:
        """An adapter's exported files by name, however the server names others."""
        path = f"{adapter_path(ref)}/export"
        answer = self._server.send("GET", path, params={"tenant": tenant}, timeout_s=None)
        try:
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                found = {}
                for name in {*LIMITS, _CARD} & set(archive.namelist()):
                    with archive.open(name) as file:
                        found[name] = capped(name, archive.getinfo(name).file_size, file.read)
        except zipfile.BadZipFile as error:
            raise InvalidImport(f"{self._server.url} sent no zip file: {error}") from None
        return found

    def check_removable(self, refs: Sequence[str], *, tenant: str | None) -> None:
        """Raise what `delete` would raise for a pinned adapter."""
        for ref in refs:
            if self.get(ref, tenant=tenant).pinned:
                raise Conflict(f"adapter {ref} is pinned; unpin it first")

    def delete(self, ref: str, *, tenant: str | None) -> list[str]:
        """Take an adapter out of service; the aliases that ended with it."""
        removed = self._server.call(
            dict[str, Any], "DELETE", adapter_path(ref), params={"tenant": tenant}
        )
        return list(removed["ended_aliases"])

    def undelete(self, ref: str, *, tenant: str | None) -> AdapterRecord:
        """Bring a deleted adapter back."""
        return self._change("POST", ref, "undelete", tenant)

    def set_state(self, ref: str, state: State, *, tenant: str | None) -> AdapterRecord:
        """Approve an adapter, put it into quarantine, or take that back."""
        return self._change("PUT", ref, "state", tenant, state=state)

    def pin(self, ref: str, *, tenant: str | None, pinned: bool = True) -> AdapterRecord:
        """Protect an adapter from every kind of removal, or end that."""
        return self._change("PUT", ref, "pin", tenant, pinned=pinned)

    def tag(
        self, ref: str, *, tenant: str | None, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> AdapterRecord:
        """Add and remove tags of an adapter."""
        return self._change("PATCH", ref, "tags", tenant, add=list(add), remove=list(remove))

    def promote(self, ref: str, *, tenant: str | None) -> AdapterRecord:
        """Give an adapter to every tenant."""
        return self._change("POST", ref, "promote", tenant)

    def _change(
        self, method: str, ref: str, what: str, tenant: str | None, **body: object
    ) -> AdapterRecord:
        path = f"{adapter_path(ref)}/{what}"
        options = {"json": body} if body else {}
        return self._server.call(AdapterRecord, method, path, params={"tenant": tenant}, **options)
