"""Routes about single adapters: list, look, judge, pin, tag, remove, share, and their history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, StrictBool

from adapters_store.records import AdapterRecord, AuditEntry, Description, State
from t2l_router.admin.acting import (
    MOST,
    Acting,
    Body,
    Cursor,
    Filter,
    Limit,
    Name,
    Page,
    Ref,
    Routes,
    page_of,
    require_operator,
)


class TagChange(Body):
    """Tags to give and to take."""

    add: list[Name] = Field([], max_length=MOST)
    remove: list[Name] = Field([], max_length=MOST)


class Judgement(Body):
    """What is thought of an adapter."""

    state: Literal["generated", "approved", "quarantined"]


class Pin(Body):
    """Whether every kind of removal is forbidden."""

    pinned: StrictBool


@dataclass(frozen=True, slots=True)
class Removed:
    """An adapter that was taken out of service, and the aliases that ended with it."""

    id: str
    ended_aliases: list[str]


class AdapterRoutes(Routes):
    """Routes about single adapters."""

    # FastAPI runs functions that are not async in threads, where the database may be waited for.

    def page(
        self,
        request: Request,
        tenant: Name | None = None,
        filter: Annotated[Sequence[Filter], Query(max_length=20)] = (),  # noqa: A002 - the CLI's word
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[AdapterRecord]:
        """A page of adapters that the tenant may use, the newest first."""
        store, whose = self._acting.for_all(request, tenant)
        page = store.page(filter, tenant=whose, limit=limit + 1, after=cursor)
        return page_of(page, limit, lambda record: record.key)

    def get(
        self, request: Request, ref: Ref, tenant: Name | None = None, *, deleted: bool = False
    ) -> AdapterRecord:
        """One adapter."""
        store, whose = self._acting.for_one(request, tenant)
        return store.get(ref, tenant=whose, deleted=deleted)

    def descriptions(
        self, request: Request, ref: Ref, tenant: Name | None = None
    ) -> list[Description]:
        """Every text that reached an adapter, the oldest first."""
        store, whose = self._acting.for_one(request, tenant)
        return store.descriptions(ref, tenant=whose)

    def delete(self, request: Request, ref: Ref, tenant: Name | None = None) -> Removed:
        """Take an adapter out of service."""
        store, whose = self._acting.for_one(request, tenant)
        found = store.get(ref, tenant=whose)
        return Removed(found.id, store.delete(found.id, tenant=whose))

    def undelete(self, request: Request, ref: Ref, tenant: Name | None = None) -> AdapterRecord:
        """Bring a deleted adapter back."""
        store, whose = self._acting.for_one(request, tenant)
        return store.undelete(ref, tenant=whose)

    def judge(
        self, request: Request, ref: Ref, body: Judgement, tenant: Name | None = None
    ) -> AdapterRecord:
        """Approve an adapter, put it into quarantine, or take that back."""
        store, whose = self._acting.for_one(request, tenant)
        state: State = body.state
        return store.set_state(ref, state, tenant=whose)

    def pin(
        self, request: Request, ref: Ref, body: Pin, tenant: Name | None = None
    ) -> AdapterRecord:
        """Protect an adapter from every kind of removal, or end that."""
        store, whose = self._acting.for_one(request, tenant)
        return store.pin(ref, tenant=whose, pinned=body.pinned)

    def tag(
        self, request: Request, ref: Ref, body: TagChange, tenant: Name | None = None
    ) -> AdapterRecord:
        """Add and remove tags."""
        store, whose = self._acting.for_one(request, tenant)
        return store.tag(ref, tenant=whose, add=body.add, remove=body.remove)

    def promote(self, request: Request, ref: Ref, tenant: Name | None = None) -> AdapterRecord:
        """Give an adapter to every tenant; the operator's right alone."""
        store, whose = self._acting.for_one(request, tenant)
        require_operator(request, "gives adapters to all tenants")
        return store.promote(ref, tenant=whose)

    def history(
        self,
        request: Request,
        tenant: Name | None = None,
        ref: Ref | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[AuditEntry]:
        """A page of who did what, the newest first."""
        store, whose = self._acting.for_one(request, tenant)
        subject = None if ref is None else store.get(ref, tenant=whose).id
        entries = store.history(subject, tenant=whose, limit=limit + 1, before=cursor)
        return page_of(entries, limit, lambda entry: entry.seq)


def add_routes(router: APIRouter, acting: Acting) -> None:
    """Add every route to *router*."""
    adapters = AdapterRoutes(acting)
    adapters.add(
        router,
        {
            "GET /adapters": adapters.page,
            "GET /adapters/{ref}": adapters.get,
            "DELETE /adapters/{ref}": adapters.delete,
            "POST /adapters/{ref}/undelete": adapters.undelete,
            "GET /adapters/{ref}/descriptions": adapters.descriptions,
            "PUT /adapters/{ref}/state": adapters.judge,
            "PUT /adapters/{ref}/pin": adapters.pin,
            "PATCH /adapters/{ref}/tags": adapters.tag,
            "POST /adapters/{ref}/promote": adapters.promote,
            "GET /history": adapters.history,
        },
    )
