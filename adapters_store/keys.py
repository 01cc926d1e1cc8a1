"""The keys that let clients in: only hashes are stored, so a stolen database opens nothing."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import Connection, RowMapping, select

from adapters_store.errors import InvalidInput, KeyNotFound
from adapters_store.ledger import Change, Ledger
from adapters_store.names import SHARED, check_name
from adapters_store.schema import api_keys, library

Scope = Literal["chat", "admin", "pull"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_FORM = re.compile(r"t2l_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_VERSION = "access_version"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    A key as the library knows it: everything but the secret.

    Args:
        id: Its public part.
        tenant: For whom it acts.
        name: Whose it is, for people.
        scopes: What it may do: chat, run the library of its tenant, or (the operator's keys)
            fetch adapters' files for an engine server.
        expires_at: From when on it opens nothing; None is never.
        last_used_at: To within a minute; None if it never was.
    """

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Keys:
    """The tenants' keys."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: Sequence[Scope] = ("chat",),
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """
        Make a key.

        Returns:
            The key and its secret, which is not kept and can't be shown again.

        Raises:
            InvalidInput: The tenant may have no key, or the name or time can't be used.
        """
        check_name("tenant", tenant)
        if tenant == SHARED:
            raise InvalidInput(f"tenant {SHARED!r} takes part by promotion only; it has no keys")
        if not scopes or not set(scopes) <= set(SCOPES):
            raise InvalidInput(f"scopes are one or more of {', '.join(SCOPES)}")
        if len(name) > 64 or not name.isprintable():  # noqa: PLR2004 - the column's width
            raise InvalidInput("a key's name has at most 64 printable characters")
        key_id = secrets.token_hex(6)
        secret = f"t2l_{key_id}_{secrets.token_urlsafe(32)}"
        with self._ledger.change() as change:
            if expires_at is not None and expires_at <= change.now:
                raise InvalidInput("a key can't expire before it is made")
            values = {
                "id": key_id,
                "tenant": tenant,
                "name": name,
                "scopes": ",".join(scope for scope in SCOPES if scope in scopes),
                "created_at": change.now,
                "expires_at": expires_at,
            }
            change.connection.execute(
                api_keys.insert().values(secret_hash=digest(secret), **values)
            )
            change.log(tenant, "key.create", key_id, name=name, scopes=list(scopes))
            touch(change)
            return _by_id(change.connection, key_id), secret

    def list(self, *, tenant: str | None = None) -> list[ApiKey]:
        """Every key, the newest first, of one tenant or all."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._ledger.read() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str, *, tenant: str | None = None) -> ApiKey:
        """
        Let a key open nothing any more; doing it again changes nothing.

        Args:
            key_id: Its public part.
            tenant: Only if it is this tenant's.

        Raises:
            KeyNotFound: There is no such key.
        """
        with self._ledger.change() as change:
            key = _by_id(change.connection, key_id)
            if tenant is not None and key.tenant != tenant:
                raise _no_key(key_id)
            if key.revoked_at is None:
                change.connection.execute(
                    api_keys.update().where(api_keys.c.id == key_id).values(revoked_at=change.now)
                )
                change.log(key.tenant, "key.revoke", key_id, name=key.name)
                touch(change)
            return _by_id(change.connection, key_id)

    def hashes(self) -> dict[str, tuple[ApiKey, str]]:
        """Every key by its public part, with its secret's hash, for whoever lets clients in."""
        with self._ledger.read() as connection:
            rows = connection.execute(select(api_keys)).mappings()
            return {row["id"]: (_key(row), row["secret_hash"]) for row in rows}

    def version(self) -> str:
        """Changes whenever a key or a tenant's limits do; cheap to ask for."""
        with self._ledger.read() as connection:
            query = select(library.c.value).where(library.c.key == _VERSION)
            return str(connection.execute(query).scalar_one_or_none() or "0")


def key_id_of(secret: str) -> str | None:
    """The public part of a secret, or None for what can't be one of ours."""
    form = _FORM.fullmatch(secret)
    return form[1] if form else None


def digest(secret: str) -> str:
    """The hash that is stored; the secret has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def touch(change: Change) -> None:
    """Tell every process that keys or limits changed."""
    number = select(library.c.value).where(library.c.key == _VERSION)
    before = change.connection.execute(number).scalar_one_or_none()
    if before is None:
        change.connection.execute(library.insert().values(key=_VERSION, value="1"))
    else:
        change.connection.execute(
            library.update().where(library.c.key == _VERSION).values(value=str(int(before) + 1))
        )


def _by_id(connection: Connection, key_id: str) -> ApiKey:
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
    if row is None:
        raise _no_key(key_id)
    return _key(row)


def _no_key(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"no key {key_id[:80]!r}; see: t2l keys list")


def _key(row: RowMapping) -> ApiKey:
    values = dict(row)
    del values["secret_hash"]
    return ApiKey(**{**values, "scopes": tuple(values["scopes"].split(","))})
