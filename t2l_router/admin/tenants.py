"""Routes about tenants: their keys, their limits, their quota, and what they have used."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, StrictInt, StringConstraints

from adapters_store.keys import ApiKey, Scope
from adapters_store.quotas import Quota, Usage
from adapters_store.reports import Space, Stats
from adapters_store.spending import DayOfUse, RateLimit
from t2l_router.admin.acting import MOST, Acting, Body, Name, Ref, Routes, require_operator

_Count = Annotated[StrictInt | None, Field(ge=0, le=2**53)]


class NewKey(Body):
    """A key to be made."""

    name: Annotated[str, StringConstraints(max_length=64)] = ""
    scopes: list[Scope] = Field(["chat"], min_length=1, max_length=3)
    expires_at: Annotated[datetime | None, Field(description="With a time zone.")] = None


class NewLimits(Body):
    """How fast a tenant may ask; null values are the server's defaults."""

    requests_per_minute: _Count = None
    tokens_per_minute: _Count = None
    tokens_per_day: _Count = None


class NewQuota(Body):
    """How much a tenant may keep and have generated; null is no limit."""

    max_bytes: _Count = None
    max_adapters: _Count = None
    max_generations_per_hour: _Count = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key; its secret is shown this once."""

    secret: str
    key: ApiKey


@dataclass(frozen=True, slots=True)
class Room:
    """A tenant's quota, and what it has used of it."""

    quota: Quota
    used: Usage


class TenantRoutes(Routes):
    """Routes about tenants."""

    def keys(self, request: Request, tenant: Name | None = None) -> list[ApiKey]:
        """The keys, without their secrets."""
        store, whose = self._acting.for_all(request, tenant)
        return store.keys.list(tenant=whose)

    def make_key(self, request: Request, body: NewKey, tenant: Name | None = None) -> MadeKey:
        """Make a key."""
        store, whose = self._acting.for_one(request, tenant)
        expires_at = body.expires_at
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.astimezone()
        key, secret = store.keys.create(
            whose, name=body.name, scopes=body.scopes, expires_at=expires_at
        )
        return MadeKey(secret, key)

    def revoke_key(self, request: Request, key_id: Ref, tenant: Name | None = None) -> ApiKey:
        """Let a key open nothing any more."""
        store, whose = self._acting.for_all(request, tenant)
        return store.keys.revoke(key_id, tenant=whose)

    def limits(self, request: Request, tenant: Name | None = None) -> RateLimit:
        """The tenant's own limits; null values are the server's defaults."""
        store, whose = self._acting.for_one(request, tenant)
        return store.spending.limit_of(whose)

    def set_limits(
        self, request: Request, body: NewLimits, tenant: Name | None = None
    ) -> RateLimit:
        """Give a tenant limits of its own; the operator's right alone."""
        store, whose = self._acting.for_one(request, tenant)
        require_operator(request, "sets limits")
        store.spending.limit(whose, RateLimit(**body.model_dump()))
        return store.spending.limit_of(whose)

    def quota(self, request: Request, tenant: Name | None = None) -> Room:
        """How much the tenant may keep and have generated, and what it has."""
        store, whose = self._acting.for_one(request, tenant)
        return Room(store.quotas.get(whose), store.quotas.usage(whose))

    def set_quota(self, request: Request, body: NewQuota, tenant: Name | None = None) -> Room:
        """Set a tenant's quota; the operator's right alone."""
        store, whose = self._acting.for_one(request, tenant)
        require_operator(request, "sets quotas")
        store.quotas.set(whose, Quota(**body.model_dump()))
        return Room(store.quotas.get(whose), store.quotas.usage(whose))

    def usage(
        self,
        request: Request,
        tenant: Name | None = None,
        days: Annotated[int, Query(ge=1, le=366)] = 7,
    ) -> list[DayOfUse]:
        """What was used, by day (UTC), today first."""
        store, whose = self._acting.for_all(request, tenant)
        return store.spending.days(days, tenant=whose)

    def stats(
        self,
        request: Request,
        tenant: Name | None = None,
        top: Annotated[int, Query(ge=0, le=MOST)] = 5,
    ) -> Stats:
        """Counts of adapters, descriptions and uses."""
        store, whose = self._acting.for_all(request, tenant)
        return store.reports.stats(tenant=whose, top=top)

    def space(self, request: Request, tenant: Name | None = None) -> list[Space]:
        """What each tenant's adapters take on the disk."""
        store, whose = self._acting.for_all(request, tenant)
        return store.reports.space(tenant=whose)


def add_routes(router: APIRouter, acting: Acting) -> None:
    """Add every route to *router*."""
    tenants = TenantRoutes(acting)
    tenants.add(
        router,
        {
            "GET /keys": tenants.keys,
            "POST /keys": tenants.make_key,
            "DELETE /keys/{key_id}": tenants.revoke_key,
            "GET /limits": tenants.limits,
            "PUT /limits": tenants.set_limits,
            "GET /quota": tenants.quota,
            "PUT /quota": tenants.set_quota,
            "GET /usage": tenants.usage,
            "GET /stats": tenants.stats,
            "GET /space": tenants.space,
        },
    )
