"""Routes about aliases: names that may move from adapter to adapter."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StrictBool

from adapters_store.records import AliasSpan
from t2l_router.admin.acting import Acting, Body, Limit, Name, Page, Ref, Routes, page_of

# Aliases of several tenants come in one list, so its cursor names both.
_Cursor = Annotated[str | None, Query(pattern=r"^[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}$")]


class AliasTarget(Body):
    """What an alias is to name; *move* takes it away from another adapter."""

    ref: Ref
    move: StrictBool = False


class AliasRoutes(Routes):
    """Routes about aliases."""

    def page(
        self,
        request: Request,
        tenant: Name | None = None,
        limit: Limit = 50,
        cursor: _Cursor = None,
    ) -> Page[AliasSpan]:
        """A page of the aliases and what they name now, by tenant and name."""
        store, whose = self._acting.for_all(request, tenant)
        after = None if cursor is None else (cursor.partition("/")[0], cursor.partition("/")[2])
        spans = store.aliases.current(tenant=whose, limit=limit + 1, after=after)
        return page_of(spans, limit, lambda span: f"{span.tenant}/{span.name}")

    def set(
        self, request: Request, name: Name, body: AliasTarget, tenant: Name | None = None
    ) -> AliasSpan:
        """Let a name stand for an adapter."""
        store, whose = self._acting.for_one(request, tenant)
        return store.aliases.set(name, body.ref, tenant=whose, move=body.move)

    def remove(self, request: Request, name: Name, tenant: Name | None = None) -> AliasSpan:
        """End an alias."""
        store, whose = self._acting.for_one(request, tenant)
        return store.aliases.remove(name, tenant=whose)

    def history(self, request: Request, name: Name, tenant: Name | None = None) -> list[AliasSpan]:
        """What an alias has named, the newest first."""
        store, whose = self._acting.for_one(request, tenant)
        return store.aliases.history(name, tenant=whose)


def add_routes(router: APIRouter, acting: Acting) -> None:
    """Add every route to *router*."""
    aliases = AliasRoutes(acting)
    aliases.add(
        router,
        {
            "GET /aliases": aliases.page,
            "PUT /aliases/{name}": aliases.set,
            "DELETE /aliases/{name}": aliases.remove,
            "GET /aliases/{name}/history": aliases.history,
        },
    )
