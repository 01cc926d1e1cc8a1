"""
The adapter library over HTTP, for keys of scope ``admin``.

Such a key runs its own tenant's part of the library. Those of the tenant ``local`` are the
operator's: they may act for any tenant (``?tenant=``) and give adapters to all.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from adapters_store import AdapterStore, transfer
from adapters_store.identity import AdapterId
from adapters_store.keys import ApiKey, Scope
from adapters_store.names import ADAPTER_ID, DEFAULT_TENANT
from adapters_store.records import AdapterRecord, AliasSpan, AuditEntry, State
from adapters_store.reports import Stats
from adapters_store.spending import DayOfUse, RateLimit
from t2l_router.errors import KeyLacksScope
from t2l_router.gate import Gate, principal_of

T = TypeVar("T")
_MOST = 200
_ID = f"^{ADAPTER_ID.pattern}$"
_MAX_ROW = 2**63 - 1  # what a database's row number can be

# A reference is an id, the start of one, or an alias: nothing else is worth a look.
Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Filter = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Limit = Annotated[int, Query(ge=1, le=_MOST)]
Cursor = Annotated[int | None, Query(ge=0, le=_MAX_ROW)]


class Page(BaseModel, Generic[T]):
    """Some of many; ``next_cursor`` gets the following ones, and is null on the last page."""

    data: Sequence[T]
    next_cursor: int | None = None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TagChange(_Body):
    """Tags to give and to take."""

    add: list[Name] = Field([], max_length=_MOST)
    remove: list[Name] = Field([], max_length=_MOST)


class Judgement(_Body):
    """What is thought of an adapter."""

    state: Literal["generated", "approved", "quarantined"]


class Pin(_Body):
    """Whether every kind of removal is forbidden."""

    pinned: bool


class AliasTarget(_Body):
    """What an alias is to name; *move* takes it away from another adapter."""

    ref: Ref
    move: bool = False


class NewKey(_Body):
    """A key to be made."""

    name: Annotated[str, StringConstraints(max_length=64)] = ""
    scopes: list[Scope] = Field(["chat"], min_length=1, max_length=3)
    expires_at: Annotated[datetime | None, Field(description="With a time zone.")] = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key; its secret is shown this once."""

    secret: str
    key: ApiKey


@dataclass(frozen=True, slots=True)
class Removed:
    """An adapter that was taken out of service, and the aliases that ended with it."""

    id: str
    ended_aliases: list[str]


class Admin:
    """
    The routes below ``/admin``.

    Args:
        store: The library.
    """

    def __init__(self, store: AdapterStore) -> None:
        self._store = store

    # FastAPI runs functions that are not async in threads, where the database may be waited for.

    def adapters(
        self,
        request: Request,
        tenant: Name | None = None,
        filter: Annotated[Sequence[Filter], Query(max_length=20)] = (),  # noqa: A002 - the CLI's word
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[AdapterRecord]:
        """A page of adapters that the tenant may use, the newest first."""
        _, whose = self._acting(request, tenant, everybody=True)
        page = self._store.page(filter, tenant=whose, limit=limit + 1, after=cursor)
        return _page(page, limit, lambda record: record.key)

    def adapter(
        self, request: Request, ref: Ref, tenant: Name | None = None, *, deleted: bool = False
    ) -> AdapterRecord:
        """One adapter."""
        store, whose = self._acting(request, tenant)
        return store.get(ref, tenant=whose, deleted=deleted)

    def descriptions(self, request: Request, ref: Ref, tenant: Name | None = None) -> list[Any]:
        """Every text that reached an adapter, the oldest first."""
        store, whose = self._acting(request, tenant)
        return list(store.descriptions(ref, tenant=whose))

    def delete(self, request: Request, ref: Ref, tenant: Name | None = None) -> Removed:
        """Take an adapter out of service."""
        store, whose = self._acting(request, tenant)
        found = store.get(ref, tenant=whose)
        return Removed(found.id, store.delete(found.id, tenant=whose))

    def undelete(self, request: Request, ref: Ref, tenant: Name | None = None) -> AdapterRecord:
        """Bring a deleted adapter back."""
        store, whose = self._acting(request, tenant)
        return store.undelete(ref, tenant=whose)

    def judge(
        self, request: Request, ref: Ref, body: Judgement, tenant: Name | None = None
    ) -> AdapterRecord:
        """Approve an adapter, put it into quarantine, or take that back."""
        store, whose = self._acting(request, tenant)
        state: State = body.state
        return store.set_state(ref, state, tenant=whose)

    def pin(
        self, request: Request, ref: Ref, body: Pin, tenant: Name | None = None
    ) -> AdapterRecord:
        """Protect an adapter from every kind of removal, or end that."""
        store, whose = self._acting(request, tenant)
        return store.pin(ref, tenant=whose, pinned=body.pinned)

    def tag(
        self, request: Request, ref: Ref, body: TagChange, tenant: Name | None = None
    ) -> AdapterRecord:
        """Add and remove tags."""
        store, whose = self._acting(request, tenant)
        return store.tag(ref, tenant=whose, add=body.add, remove=body.remove)

    def promote(self, request: Request, ref: Ref, tenant: Name | None = None) -> AdapterRecord:
        """Give an adapter to every tenant; the operator's right alone."""
        store, whose = self._acting(request, tenant)
        if principal_of(request).tenant != DEFAULT_TENANT:
            raise KeyLacksScope("only the operator (tenant local) gives adapters to all tenants")
        return store.promote(ref, tenant=whose)

    def export(self, request: Request, ref: Ref, tenant: Name | None = None) -> Response:
        """An adapter as a zip file that PEFT, vLLM and `t2l adapters import` read."""
        store, whose = self._acting(request, tenant)
        record = store.get(ref, tenant=whose)
        return _zip(record.id, store.export(record.id, tenant=whose))

    def blob(self, adapter_id: Annotated[str, StringConstraints(pattern=_ID)]) -> Response:
        """An adapter of any tenant by its whole id: a zip file without its descriptions."""
        files = self._store.blob(AdapterId(adapter_id))
        return _zip(adapter_id, files)

    def history(
        self,
        request: Request,
        tenant: Name | None = None,
        ref: Ref | None = None,
        limit: Limit = 50,
    ) -> list[AuditEntry]:
        """Who did what, the newest first."""
        store, whose = self._acting(request, tenant)
        subject = None if ref is None else store.get(ref, tenant=whose).id
        return store.history(subject, tenant=whose, limit=limit)

    def stats(
        self,
        request: Request,
        tenant: Name | None = None,
        top: Annotated[int, Query(ge=0, le=_MOST)] = 5,
    ) -> Stats:
        """Counts of adapters, descriptions and uses."""
        store, whose = self._acting(request, tenant, everybody=True)
        return store.reports.stats(tenant=whose, top=top)

    def aliases(self, request: Request, tenant: Name | None = None) -> list[AliasSpan]:
        """The aliases and what they name now."""
        store, whose = self._acting(request, tenant, everybody=True)
        return store.aliases.current(tenant=whose)

    def set_alias(
        self, request: Request, name: Name, body: AliasTarget, tenant: Name | None = None
    ) -> AliasSpan:
        """Let a name stand for an adapter."""
        store, whose = self._acting(request, tenant)
        return store.aliases.set(name, body.ref, tenant=whose, move=body.move)

    def remove_alias(self, request: Request, name: Name, tenant: Name | None = None) -> AliasSpan:
        """End an alias."""
        store, whose = self._acting(request, tenant)
        return store.aliases.remove(name, tenant=whose)

    def alias_history(
        self, request: Request, name: Name, tenant: Name | None = None
    ) -> list[AliasSpan]:
        """What an alias has named, the newest first."""
        store, whose = self._acting(request, tenant)
        return store.aliases.history(name, tenant=whose)

    def keys(self, request: Request, tenant: Name | None = None) -> list[ApiKey]:
        """The keys, without their secrets."""
        store, whose = self._acting(request, tenant, everybody=True)
        return store.keys.list(tenant=whose)

    def make_key(self, request: Request, body: NewKey, tenant: Name | None = None) -> MadeKey:
        """Make a key."""
        store, whose = self._acting(request, tenant)
        expires_at = body.expires_at
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.astimezone()
        key, secret = store.keys.create(
            whose, name=body.name, scopes=body.scopes, expires_at=expires_at
        )
        return MadeKey(secret, key)

    def revoke_key(self, request: Request, key_id: Ref, tenant: Name | None = None) -> ApiKey:
        """Let a key open nothing any more."""
        store, whose = self._acting(request, tenant, everybody=True)
        return store.keys.revoke(key_id, tenant=whose)

    def limits(self, request: Request, tenant: Name | None = None) -> RateLimit:
        """The tenant's own limits; null values are the server's defaults."""
        store, whose = self._acting(request, tenant)
        return store.spending.limits().get(whose, RateLimit())

    def usage(
        self,
        request: Request,
        tenant: Name | None = None,
        days: Annotated[int, Query(ge=1, le=366)] = 7,
    ) -> list[DayOfUse]:
        """What was used, by day (UTC), today first."""
        store, whose = self._acting(request, tenant, everybody=True)
        return store.spending.days(days, tenant=whose)

    def _acting(
        self, request: Request, tenant: str | None, *, everybody: bool = False
    ) -> tuple[AdapterStore, Any]:
        """
        The library with the caller's name in its audit log, and for whom the caller acts.

        Where *everybody* may be meant, that is None: the operator who names no tenant.
        """
        principal = principal_of(request)
        store = self._store.acting_as(f"key:{principal.key_id}" if principal.key_id else "http")
        if principal.tenant == DEFAULT_TENANT:
            return store, tenant or (None if everybody else DEFAULT_TENANT)
        if tenant not in (None, principal.tenant):
            raise KeyLacksScope("this key runs its own tenant's part of the library only")
        return store, principal.tenant


def routes(store: AdapterStore, gate: Gate) -> APIRouter:
    """Every route, behind the gate."""
    admin = Admin(store)
    found = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(gate.admin)])
    for method, path, endpoint in (
        ("GET", "/adapters", admin.adapters),
        ("GET", "/adapters/{ref}", admin.adapter),
        ("DELETE", "/adapters/{ref}", admin.delete),
        ("POST", "/adapters/{ref}/undelete", admin.undelete),
        ("GET", "/adapters/{ref}/descriptions", admin.descriptions),
        ("PUT", "/adapters/{ref}/state", admin.judge),
        ("PUT", "/adapters/{ref}/pin", admin.pin),
        ("PATCH", "/adapters/{ref}/tags", admin.tag),
        ("POST", "/adapters/{ref}/promote", admin.promote),
        ("GET", "/history", admin.history),
        ("GET", "/stats", admin.stats),
        ("GET", "/aliases", admin.aliases),
        ("PUT", "/aliases/{name}", admin.set_alias),
        ("DELETE", "/aliases/{name}", admin.remove_alias),
        ("GET", "/aliases/{name}/history", admin.alias_history),
        ("GET", "/keys", admin.keys),
        ("POST", "/keys", admin.make_key),
        ("DELETE", "/keys/{key_id}", admin.revoke_key),
        ("GET", "/limits", admin.limits),
        ("GET", "/usage", admin.usage),
    ):
        found.add_api_route(path, endpoint, methods=[method])
    zipped: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}}}
    found.add_api_route(
        "/adapters/{ref}/export", admin.export, responses=zipped, response_class=Response
    )
    # Engine servers ask here; theirs is another scope than the other routes'.
    pulling = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(gate.pull)])
    pulling.add_api_route(
        "/blobs/{adapter_id}", admin.blob, responses=zipped, response_class=Response
    )
    both = APIRouter()
    both.include_router(found)
    both.include_router(pulling)
    return both


def _zip(adapter_id: str, contents: Mapping[str, bytes]) -> Response:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "adapter.zip")
        transfer.write_zip(contents, path)
        name = {"content-disposition": f'attachment; filename="{adapter_id}.zip"'}
        return Response(path.read_bytes(), media_type="application/zip", headers=name)


def _page(records: Sequence[T], limit: int, key: Any) -> Page[T]:
    """The first *limit* of one more than that."""
    more = len(records) > limit
    return Page(data=records[:limit], next_cursor=key(records[limit - 1]) if more else None)
