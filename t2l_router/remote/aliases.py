"""The aliases of a server's library."""

from datetime import datetime
from urllib.parse import quote

from adapters_store.aliases import span_at
from adapters_store.errors import AliasNotFound
from adapters_store.records import AliasSpan
from t2l_router.remote.connection import Connection


class RemoteAliases:
    """`adapters_store.aliases.Aliases` on a server."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def set(self, name: str, ref: str, *, tenant: str | None, move: bool = False) -> AliasSpan:
        """Let *name* stand for an adapter from now on."""
        body = {"ref": ref, "move": move}
        return self._server.call(
            AliasSpan, "PUT", _alias(name), params={"tenant": tenant}, json=body
        )

    def remove(self, name: str, *, tenant: str | None) -> AliasSpan:
        """End an alias; its history stays."""
        return self._server.call(AliasSpan, "DELETE", _alias(name), params={"tenant": tenant})

    def get(self, name: str, *, tenant: str | None) -> AliasSpan:
        """What the alias names now."""
        found = [span for span in self.current(tenant=tenant) if span.name == name]
        if not found:
            raise AliasNotFound(f"there is no alias {name!r}; see: t2l adapters alias list")
        return found[0]

    def current(self, *, tenant: str | None = None) -> list[AliasSpan]:
        """The current aliases by tenant and name."""
        return self._server.pages(AliasSpan, "/aliases", None, tenant=tenant)

    def at(self, name: str, when: datetime, *, tenant: str | None) -> AliasSpan:
        """What the alias named at a time."""
        return span_at(self.history(name, tenant=tenant), name, when)

    def history(self, name: str, *, tenant: str | None) -> list[AliasSpan]:
        """Everything that the alias has named, the newest first."""
        path = f"{_alias(name)}/history"
        return self._server.call(list[AliasSpan], "GET", path, params={"tenant": tenant})


def _alias(name: str) -> str:
    return f"/aliases/{quote(name, safe='')}"
