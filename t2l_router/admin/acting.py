"""For whom a request acts, and the words that the routes' parameters are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, StringConstraints

from adapters_store import AdapterStore
from adapters_store.names import DEFAULT_TENANT
from t2l_router.errors import KeyLacksScope
from t2l_router.gate import principal_of

T = TypeVar("T")
MOST = 200
_MAX_ROW = 2**63 - 1  # what a database's row number can be

# A reference is an id, the start of one, or an alias: nothing else is worth a look.
Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Filter = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Cursor = Annotated[int | None, Query(ge=0, le=_MAX_ROW)]


class Page(BaseModel, Generic[T]):
    """Some of many; ``next_cursor`` gets the following ones, and is null on the last page."""

    data: Sequence[T]
    next_cursor: int | str | None = None


class Body(BaseModel):
    """A request's body: what it doesn't know, it refuses."""

    model_config = ConfigDict(extra="forbid")


class Acting:
    """
    Knows for whom requests act.

    Args:
        store: The library.
    """

    def __init__(self, store: AdapterStore) -> None:
        self.store = store

    def for_one(self, request: Request, tenant: str | None) -> tuple[AdapterStore, str]:
        """
        The library with the caller's name in its audit log, and the tenant that is meant.

        Raises:
            KeyLacksScope: It is another one than the caller's.
        """
        store, whose = self.for_all(request, tenant)
        return store, whose or DEFAULT_TENANT

    def for_all(self, request: Request, tenant: str | None) -> tuple[AdapterStore, str | None]:
        """As `for_one`, but the operator who names no tenant means all: None."""
        principal = principal_of(request)
        store = self.store.acting_as(f"key:{principal.key_id}" if principal.key_id else "http")
        if principal.tenant == DEFAULT_TENANT:
            return store, tenant
        if tenant not in (None, principal.tenant):
            raise KeyLacksScope("this key runs its own tenant's part of the library only")
        return store, principal.tenant


class Routes:
    """
    Routes about one kind of thing.

    Args:
        acting: Knows for whom requests act.
    """

    def __init__(self, acting: Acting) -> None:
        self._acting = acting

    @staticmethod
    def add(router: APIRouter, endpoints: Mapping[str, Callable[..., Any]]) -> None:
        """Add routes to *router*, each by its method and path: ``GET /adapters``."""
        for where, endpoint in endpoints.items():
            method, path = where.split()
            router.add_api_route(path, endpoint, methods=[method])


def require_operator(request: Request, what: str) -> None:
    """Raise `KeyLacksScope` for a key of another tenant than the operator's."""
    if principal_of(request).tenant != DEFAULT_TENANT:
        raise KeyLacksScope(f"only the operator (a key of the tenant {DEFAULT_TENANT}) {what}")


def page_of(rows: Sequence[T], limit: int, key: Any) -> Page[T]:
    """The first *limit* of one more than that; *key* gives a row's cursor."""
    more = len(rows) > limit
    return Page(data=rows[:limit], next_cursor=key(rows[limit - 1]) if more else None)
