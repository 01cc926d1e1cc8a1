"""Who may come in: keys to tenants, and each tenant's limits."""

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from adapters_store.errors import StoreError
from adapters_store.keys import SCOPES, ApiKey, Scope, digest, key_id_of
from adapters_store.names import DEFAULT_TENANT
from adapters_store.spending import RateLimit, Spent
from t2l_router.errors import (
    AccessUnavailable,
    BudgetSpent,
    HostRefused,
    InvalidKey,
    KeyLacksScope,
    RateLimited,
)
from t2l_router.rates import Pace

logger = logging.getLogger(__name__)

REFRESH_S = 2.0
"""A revoked key opens nothing any more after this time, in every process."""
GRACE_S = 60.0
"""While the database is away, keys that were valid stay so for this long."""
FLUSH_S = 5.0
_STORE_TIMEOUT_S = 5.0
_MISS_REFRESH_S = 0.25
_PROBE_S = 1.0
_NO_SECRET = digest("")


class KeySource(Protocol):
    """Where the keys are: `adapters_store.keys.Keys`."""

    def version(self) -> str:
        """Changes when keys or limits do."""

    def hashes(self) -> dict[str, tuple[ApiKey, str]]:
        """Every key by its id, with its secret's hash."""


class SpendingSource(Protocol):
    """Where limits and uses are: `adapters_store.spending.Spending`."""

    def limits(self) -> dict[str, RateLimit]:
        """Every tenant that has limits of its own."""

    def record(self, spent: Mapping[str, Spent], used_keys: Mapping[str, datetime]) -> None:
        """Add to today's counts."""

    def today(self) -> dict[str, Spent]:
        """What each tenant has used today."""


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Who asks.

    Args:
        tenant: Whose adapters may serve.
        scopes: What it may do.
        key_id: The public part of its key; None where there are no keys.
    """

    tenant: str = DEFAULT_TENANT
    scopes: tuple[Scope, ...] = SCOPES
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database said last."""

    version: str = ""
    keys: Mapping[str, tuple[ApiKey, str]] = field(default_factory=dict)
    limits: Mapping[str, RateLimit] = field(default_factory=dict)


class Access:
    """
    Lets requests in by their keys, within their tenants' limits.

    Keys are held in memory; a cheap question to the database every `REFRESH_S` seconds tells
    whether any changed. Limits per minute count in this process; tokens per day are added up in
    the database, over all processes.

    Args:
        keys: Where the keys are; without any, everybody is the tenant ``local``.
        spending: Where limits and uses are.
        defaults: Limits of tenants that have none of their own.
        closed: Let nobody in without a key, even where there is none.
        hosts: Names, besides this machine's own, by which it may be reached without a key.
        clock: The time in seconds.
    """

    def __init__(
        self,
        keys: KeySource,
        spending: SpendingSource,
        *,
        defaults: RateLimit = RateLimit(),  # noqa: B008 - frozen
        closed: bool = False,
        hosts: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._spending = spending
        self._defaults = defaults
        self._closed = closed
        self._hosts = frozenset(host.lower() for host in hosts)
        self._clock = clock
        self._known = _Known()
        self._known_at = self._asked_at = -math.inf
        self._refreshing = asyncio.Lock()
        self._paces: dict[str, Pace] = {}
        self._today: dict[str, Spent] = {}
        self._unsaved: dict[str, Spent] = {}
        self._used_keys: dict[str, datetime] = {}

    def use_defaults(self, defaults: RateLimit) -> None:
        """Take other limits for tenants that have none of their own, from now on."""
        self._defaults = defaults

    async def principal(
        self,
        authorization: str | None,
        scope: Scope,
        *,
        host: str | None = None,
        origin: str | None = None,
    ) -> Principal:
        """
        Who sent this ``Authorization`` header.

        Args:
            authorization: The header.
            scope: What the key is to allow.
            host: The header ``Host``; it counts where no key is needed.
            origin: The header ``Origin``, by which browsers tell whose page asks; so does it.

        Raises:
            HostRefused: No key is needed, but a web page may have sent this.
            InvalidKey: There is no key, or not this one, or not any more.
            KeyLacksScope: The key may not do this.
            AccessUnavailable: The database can't be asked.
        """
        await self._refresh(REFRESH_S)
        if not self._known.keys and not self._closed:
            self._check_host(host)
            self._check_origin(origin, host)
            return Principal()
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise InvalidKey("give an API key: Authorization: Bearer <key>")
        key = await self._key(secret.strip())
        if scope not in key.scopes:
            raise KeyLacksScope(
                f"key {key.id} has no scope {scope!r}, it has {', '.join(key.scopes)}; "
                f"one that does: t2l keys create TENANT --scope {scope}"
            )
        self._used_keys[key.id] = datetime.now(UTC)
        return Principal(key.tenant, key.scopes, key.id)

    def _check_host(self, host: str | None) -> None:
        """
        Make sure that no web page is behind a request that needs no key.

        A page of a stranger's site can let its own name resolve to this machine (DNS rebinding),
        and is then allowed to read the answers; but the browser tells that name as the host.
        """
        name = host_name(host or "localhost")
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return
        try:
            ipaddress.ip_address(name)  # an address can't be made to resolve to another
        except ValueError:
            raise HostRefused(
                f"this server needs no key and is not known as {name[:80]!r}; "
                "reach it as localhost, or add the name to allowed_hosts, or make a key"
            ) from None

    def _check_origin(self, origin: str | None, host: str | None) -> None:
        """Make sure that no other site's page asks: it can send what needs no answer."""
        if origin is None:
            return
        try:
            name = urlsplit(origin).hostname or ""
        except ValueError:
            name = ""
        ours = {host_name(host or "localhost"), "localhost", *self._hosts}
        if name in ours or name.endswith(".localhost") or _is_loopback(name):
            return
        raise HostRefused(
            f"this server needs no key, so pages of {origin[:80]!r} may not use it; "
            "add the name to allowed_hosts, or make a key"
        )

    async def is_reachable(self) -> bool:
        """Whether the database answered when it was asked last, a second ago at most."""
        try:
            await self._refresh(_PROBE_S)
        except AccessUnavailable:
            return False
        return self._known_at >= self._asked_at

    def admit(self, tenant: str) -> tuple[tuple[str, str], ...]:
        """
        Count one request of a tenant, and return the headers that say what is left.

        Raises:
            RateLimited: It asks too fast.
            BudgetSpent: It has used its tokens of the day.
        """
        limit = self._limit(tenant)
        used = self._today.get(tenant, Spent()) + self._unsaved.get(tenant, Spent())
        if limit.tokens_per_day is not None and used.tokens >= limit.tokens_per_day:
            raise BudgetSpent(
                f"the {limit.tokens_per_day:,} tokens of this day (UTC) are used; "
                "come back tomorrow or have the budget raised"
            )
        admission = self._pace(tenant, limit).ask()
        if admission.wait_s:
            raise RateLimited(
                f"too many {admission.what} in a minute; try again in {admission.wait_s:.1f} s",
                retry_after_s=max(1, math.ceil(admission.wait_s)),
                headers=admission.headers,
            )
        self._add(tenant, Spent(requests=1))
        return admission.headers

    def spend(self, tenant: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer's tokens."""
        self._pace(tenant, self._limit(tenant)).spend(prompt_tokens + completion_tokens)
        self._add(tenant, Spent(0, prompt_tokens, completion_tokens))

    async def keep_accounts(self) -> None:
        """Save what was used every `FLUSH_S` seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.save()

    async def save(self) -> None:
        """Add what was used to the database's counts, and see what other processes added."""
        unsaved, self._unsaved = self._unsaved, {}
        used_keys, self._used_keys = self._used_keys, {}

        def exchange() -> dict[str, Spent]:
            if unsaved or used_keys:
                self._spending.record(unsaved, used_keys)
            return self._spending.today()

        try:
            self._today = await asyncio.to_thread(exchange)
        except StoreError as error:
            logger.warning("uses are not saved yet: %s", error)
            for tenant, spent in unsaved.items():
                self._add(tenant, spent)
            self._used_keys = used_keys | self._used_keys

    async def _key(self, secret: str) -> ApiKey:
        key_id = key_id_of(secret)
        if key_id is not None and key_id not in self._known.keys:
            # Perhaps made a moment ago; asked at most four times a second, whoever knocks.
            await self._refresh(_MISS_REFRESH_S)
        key, expected = self._known.keys.get(key_id or "", (None, _NO_SECRET))
        # The same work for keys that there are and keys that there aren't.
        matches = hmac.compare_digest(digest(secret), expected)
        if key is None or not matches:
            raise InvalidKey("this API key is not known here")
        if key.revoked_at is not None or (key.expires_at and key.expires_at <= datetime.now(UTC)):
            raise InvalidKey(f"API key {key.id} was revoked or has expired")
        return key

    async def _refresh(self, older_than_s: float) -> None:
        # Who finds somebody else asking goes on with what is known, if anything is.
        is_known = self._clock() - self._known_at <= GRACE_S
        if self._is_due(older_than_s) and not (is_known and self._refreshing.locked()):
            async with self._refreshing:
                if self._is_due(older_than_s):
                    await self._reload()
        if self._clock() - self._known_at > GRACE_S:
            raise AccessUnavailable("keys can't be checked now; try again")

    def _is_due(self, older_than_s: float) -> bool:
        return self._clock() - self._asked_at >= older_than_s

    async def _reload(self) -> None:
        try:
            # A database that hangs must not hold the requests.
            reading = asyncio.to_thread(self._read, self._known)
            self._known = await asyncio.wait_for(reading, _STORE_TIMEOUT_S)
        except (StoreError, TimeoutError) as error:
            logger.warning("keys are those of a moment ago: %s", error or "no answer")
            self._asked_at = self._clock()
        else:
            self._known_at = self._asked_at = self._clock()

    def _read(self, known: _Known) -> _Known:
        version = self._keys.version()
        if version == known.version:
            return known
        return _Known(version, self._keys.hashes(), self._spending.limits())

    def _limit(self, tenant: str) -> RateLimit:
        own, given = self._known.limits.get(tenant, RateLimit()), self._defaults
        return RateLimit(
            _first(own.requests_per_minute, given.requests_per_minute),
            _first(own.tokens_per_minute, given.tokens_per_minute),
            _first(own.tokens_per_day, given.tokens_per_day),
        )

    def _pace(self, tenant: str, limit: RateLimit) -> Pace:
        pace = self._paces.get(tenant)
        if pace is None or pace.limit != limit:
            pace = self._paces[tenant] = Pace(limit, self._clock)
        return pace

    def _add(self, tenant: str, spent: Spent) -> None:
        self._unsaved[tenant] = self._unsaved.get(tenant, Spent()) + spent


def host_name(host: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets, in small letters."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _first(own: int | None, default: int | None) -> int | None:
    return default if own is None else own
