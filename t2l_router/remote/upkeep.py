"""Looking after a server's library: verify, prune, duplicates."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter

from adapters_store.dedupe import Cluster, Kind
from adapters_store.maintenance import PrunePolicy, PruneStep, VerifyReport
from adapters_store.records import AdapterRecord
from t2l_router.remote.connection import Connection, adapter_path

_Progress = Callable[[int, int], None]


class RemoteMaintenance:
    """`adapters_store.maintenance.Maintenance` on a server."""

    def __init__(self, server: Connection) -> None:
        self._server = server
        self._policy = PrunePolicy()

    def verify(self, *, on_adapter: _Progress | None = None) -> VerifyReport:  # noqa: ARG002
        """Re-hash everything; the server doesn't tell how far it is."""
        return self._server.call(VerifyReport, "POST", "/verify", timeout_s=None)

    def plan(self, policy: PrunePolicy) -> list[PruneStep]:
        """What `apply` would remove."""
        self._policy = policy
        return self._prune(policy, apply=False)

    def apply(self, steps: Sequence[PruneStep]) -> list[PruneStep]:
        """Carry out the last plan; the server, which trusts nobody's steps, plans anew."""
        return self._prune(self._policy, apply=True) if steps else []

    def _prune(self, policy: PrunePolicy, *, apply: bool) -> list[PruneStep]:
        body = {
            "filters": policy.expressions,
            "to_quota": policy.to_quota,
            "purge_after_s": int(policy.purge_after.total_seconds()),
            "stray_after_s": int(policy.stray_after.total_seconds()),
            "apply": apply,
        }
        params = {"tenant": policy.tenant}
        pruned = self._server.call(
            dict[str, Any], "POST", "/prune", params=params, json=body, timeout_s=None
        )
        return TypeAdapter(list[PruneStep]).validate_python(pruned["steps"])


class RemoteDedupe:
    """`adapters_store.dedupe.Dedupe` on a server."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def clusters(
        self,
        kind: Kind,
        *,
        tenant: str | None,
        threshold: float,
        on_adapter: _Progress | None = None,  # noqa: ARG002 - the server doesn't tell
    ) -> list[Cluster]:
        """Groups of a tenant's adapters that do the same."""
        params = {"tenant": tenant, "by": kind, "threshold": threshold}
        return self._server.call(list[Cluster], "GET", "/duplicates", params=params, timeout_s=None)

    def merge(self, cluster: Cluster) -> None:
        """Give the kept adapter the texts and aliases of the others and delete those."""
        body = {"others": [other.id for other in cluster.merge], "by": cluster.kind}
        params = {"tenant": cluster.keep.tenant}
        path = f"{adapter_path(cluster.keep.id)}/merge"
        self._server.call(AdapterRecord, "POST", path, params=params, json=body)
