"""The tenants of a server: keys, limits, quotas, and what they have and use."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from adapters_store.keys import ApiKey, Scope
from adapters_store.quotas import Quota, Usage
from adapters_store.reports import Space, Stats
from adapters_store.spending import DayOfUse, RateLimit
from t2l_router.remote.connection import Connection


class RemoteKeys:
    """`adapters_store.keys.Keys` on a server, as far as it is offered."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: Sequence[Scope] = ("chat",),
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; it and its secret, which can't be shown again."""
        body = {
            "name": name,
            "scopes": list(scopes),
            "expires_at": expires_at.isoformat() if expires_at else None,
        }
        made = self._server.call(
            dict[str, Any], "POST", "/keys", params={"tenant": tenant}, json=body
        )
        return TypeAdapter(ApiKey).validate_python(made["key"]), str(made["secret"])

    def list(self, *, tenant: str | None = None) -> list[ApiKey]:
        """Every key, the newest first."""
        return self._server.call(list[ApiKey], "GET", "/keys", params={"tenant": tenant})

    def revoke(self, key_id: str) -> ApiKey:
        """Let a key open nothing any more."""
        return self._server.call(ApiKey, "DELETE", f"/keys/{quote(key_id, safe='')}")


class RemoteSpending:
    """`adapters_store.spending.Spending` on a server, as far as it is offered."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def limit_of(self, tenant: str | None) -> RateLimit:
        """The tenant's own limits."""
        return self._server.call(RateLimit, "GET", "/limits", params={"tenant": tenant})

    def limit(self, tenant: str | None, limit: RateLimit) -> None:
        """Give a tenant limits of its own."""
        params = {"tenant": tenant}
        self._server.call(RateLimit, "PUT", "/limits", params=params, json=asdict(limit))

    def days(self, days: int, *, tenant: str | None = None) -> list[DayOfUse]:
        """What was used on the last *days* days, today first."""
        params = {"tenant": tenant, "days": days}
        return self._server.call(list[DayOfUse], "GET", "/usage", params=params)


class RemoteQuotas:
    """`adapters_store.quotas.Quotas` on a server, as far as it is offered."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def get(self, tenant: str | None) -> Quota:
        """A tenant's limits."""
        return TypeAdapter(Quota).validate_python(self._room(tenant)["quota"])

    def set(self, tenant: str | None, quota: Quota) -> None:
        """Limit a tenant."""
        params = {"tenant": tenant}
        self._server.call(dict[str, Any], "PUT", "/quota", params=params, json=asdict(quota))

    def usage(self, tenant: str | None) -> Usage:
        """What a tenant has now."""
        return TypeAdapter(Usage).validate_python(self._room(tenant)["used"])

    def _room(self, tenant: str | None) -> dict[str, Any]:
        return self._server.call(dict[str, Any], "GET", "/quota", params={"tenant": tenant})


class RemoteReports:
    """`adapters_store.reports.Reports` on a server."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def stats(self, *, tenant: str | None = None, top: int = 5) -> Stats:
        """Counts over one tenant or all."""
        return self._server.call(Stats, "GET", "/stats", params={"tenant": tenant, "top": top})

    def space(self, *, tenant: str | None = None) -> list[Space]:
        """What each tenant takes."""
        return self._server.call(list[Space], "GET", "/space", params={"tenant": tenant})
