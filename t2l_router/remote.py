"""The adapter library of a running server, by its admin API: what operators do from elsewhere."""

from collections.abc import Sequence
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from adapters_store.errors import (
    AdapterNotFound,
    AliasNotFound,
    Conflict,
    InvalidInput,
    StoreError,
    StoreUnavailable,
)
from adapters_store.records import AdapterRecord, AliasSpan, AuditEntry, Description, State
from adapters_store.reports import Stats
from t2l_router.errors import ServerUnreachable
from t2l_router.wire import error_of

T = TypeVar("T")
_PAGE = 200
_ERRORS: dict[int, type[StoreError]] = {
    400: InvalidInput,
    404: AdapterNotFound,
    409: Conflict,
    503: StoreUnavailable,
}


class RemoteStore:
    """
    Does what `adapters_store.AdapterStore` does under the same names, on a server.

    What an operator does to a library as a whole (verify, prune, import, ...) is not offered: it
    is done on the machine that has the library.

    Args:
        url: The server's address, with or without ``/v1``.
        api_key: Of scope ``admin``.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        key = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1") + "/admin", headers=key, timeout=30
        )
        self.url = url
        self.aliases = RemoteAliases(self)
        self.reports = RemoteReports(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, ref: str, *, tenant: str, deleted: bool = False) -> AdapterRecord:
        """One adapter."""
        return self.call(
            AdapterRecord, "GET", _adapter(ref), params={"tenant": tenant, "deleted": deleted}
        )

    def descriptions(self, ref: str, *, tenant: str) -> list[Description]:
        """Every text that reached an adapter, the oldest first."""
        path = f"{_adapter(ref)}/descriptions"
        return self.call(list[Description], "GET", path, params={"tenant": tenant})

    def page(
        self,
        expressions: Sequence[str] = (),
        *,
        tenant: str | None = None,
        limit: int | None = 50,
        after: int | None = None,
    ) -> list[AdapterRecord]:
        """The newest adapters, fetched page by page."""
        found: list[AdapterRecord] = []
        while limit is None or len(found) < limit:
            wanted = _PAGE if limit is None else min(_PAGE, limit - len(found))
            params = {"filter": list(expressions), "tenant": tenant, "limit": wanted}
            page = self.call(dict[str, Any], "GET", "/adapters", params=params | {"cursor": after})
            found += TypeAdapter(list[AdapterRecord]).validate_python(page["data"])
            after = page["next_cursor"]
            if after is None:
                break
        return found

    def history(
        self, subject: str | None = None, *, tenant: str | None = None, limit: int | None = 50
    ) -> list[AuditEntry]:
        """Who did what, the newest first."""
        params = {"tenant": tenant, "ref": subject, "limit": min(limit or _PAGE, _PAGE)}
        return self.call(list[AuditEntry], "GET", "/history", params=params)

    def check_removable(self, refs: Sequence[str], *, tenant: str) -> None:
        """Raise what `delete` would raise for a pinned adapter."""
        for ref in refs:
            if self.get(ref, tenant=tenant).pinned:
                raise Conflict(f"adapter {ref} is pinned; unpin it first")

    def delete(self, ref: str, *, tenant: str) -> list[str]:
        """Take an adapter out of service; the aliases that ended with it."""
        removed = self.call(dict[str, Any], "DELETE", _adapter(ref), params={"tenant": tenant})
        return list(removed["ended_aliases"])

    def undelete(self, ref: str, *, tenant: str) -> AdapterRecord:
        """Bring a deleted adapter back."""
        return self._change("POST", ref, "undelete", tenant)

    def set_state(self, ref: str, state: State, *, tenant: str) -> AdapterRecord:
        """Approve an adapter, put it into quarantine, or take that back."""
        return self._change("PUT", ref, "state", tenant, state=state)

    def pin(self, ref: str, *, tenant: str, pinned: bool = True) -> AdapterRecord:
        """Protect an adapter from every kind of removal, or end that."""
        return self._change("PUT", ref, "pin", tenant, pinned=pinned)

    def tag(
        self, ref: str, *, tenant: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> AdapterRecord:
        """Add and remove tags of an adapter."""
        return self._change("PATCH", ref, "tags", tenant, add=list(add), remove=list(remove))

    def promote(self, ref: str, *, tenant: str) -> AdapterRecord:
        """Give an adapter to every tenant."""
        return self._change("POST", ref, "promote", tenant)

    def call(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """
        One request and its answer as a value.

        Raises:
            ServerUnreachable: Nobody answers.
            StoreError: What the library says.
        """
        params = {k: v for k, v in options.pop("params", {}).items() if v is not None}
        try:
            answer = self._http.request(method, path, params=params, **options)
        except httpx.TransportError as error:
            raise ServerUnreachable(f"no answer from {self.url}: {error}") from error
        if answer.is_success:
            return TypeAdapter(kind).validate_json(answer.content)
        told = error_of(answer.text)
        message = told.message if told else f"the server answered {answer.status_code}"
        raise _ERRORS.get(answer.status_code, StoreError)(message)

    def _change(
        self, method: str, ref: str, what: str, tenant: str, **body: object
    ) -> AdapterRecord:
        path = f"{_adapter(ref)}/{what}"
        options = {"json": body} if body else {}
        return self.call(AdapterRecord, method, path, params={"tenant": tenant}, **options)


class RemoteAliases:
    """`adapters_store.aliases.Aliases` on a server."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store

    def set(self, name: str, ref: str, *, tenant: str, move: bool = False) -> AliasSpan:
        """Let *name* stand for an adapter from now on."""
        body = {"ref": ref, "move": move}
        return self._store.call(
            AliasSpan, "PUT", _alias(name), params={"tenant": tenant}, json=body
        )

    def remove(self, name: str, *, tenant: str) -> AliasSpan:
        """End an alias; its history stays."""
        return self._store.call(AliasSpan, "DELETE", _alias(name), params={"tenant": tenant})

    def get(self, name: str, *, tenant: str) -> AliasSpan:
        """What the alias names now."""
        found = [span for span in self.current(tenant=tenant) if span.name == name]
        if not found:
            raise AliasNotFound(f"tenant {tenant} has no alias {name!r}")
        return found[0]

    def current(self, *, tenant: str | None = None) -> list[AliasSpan]:
        """The current aliases by name."""
        return self._store.call(list[AliasSpan], "GET", "/aliases", params={"tenant": tenant})

    def history(self, name: str, *, tenant: str) -> list[AliasSpan]:
        """Everything that the alias has named, the newest first."""
        path = f"{_alias(name)}/history"
        return self._store.call(list[AliasSpan], "GET", path, params={"tenant": tenant})


class RemoteReports:
    """`adapters_store.reports.Reports` on a server, as far as it is offered."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store

    def stats(self, *, tenant: str | None = None, top: int = 5) -> Stats:
        """Counts over one tenant or all."""
        return self._store.call(Stats, "GET", "/stats", params={"tenant": tenant, "top": top})


def _adapter(ref: str) -> str:
    return f"/adapters/{quote(ref, safe='')}"


def _alias(name: str) -> str:
    return f"/aliases/{quote(name, safe='')}"
