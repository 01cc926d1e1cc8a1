"""
The adapter library over HTTP, for keys of scope ``admin``.

Such a key runs its own tenant's part of the library. Those of the tenant ``local`` are the
operator's: they may act for any tenant (``?tenant=``), give adapters to all, set limits and
quotas, and look after the library as a whole.
"""

from typing import Any

from fastapi import APIRouter

from adapters_store import AdapterStore
from t2l_router.admin import adapters, aliases, moves, tenants, upkeep
from t2l_router.admin.acting import Acting
from t2l_router.gate import BEARER, Gate, routes_behind
from t2l_router.readiness import Readiness

IMPORT_PATH = moves.IMPORT_PATH


def routes(
    store: AdapterStore, gate: Gate, readiness: Readiness, *, max_import_bytes: int
) -> APIRouter:
    """
    Every route, behind the gate.

    Args:
        store: The library.
        gate: Lets requests in.
        readiness: Holds the router, whose models read descriptions.
        max_import_bytes: Largest adapter that is taken in.
    """
    acting = Acting(store)
    moving = moves.MoveRoutes(acting, readiness, max_import_bytes)
    options: dict[str, Any] = {"prefix": "/admin", "tags": ["admin"], "dependencies": [BEARER]}
    admin = APIRouter(route_class=routes_behind(gate.admin), **options)
    adapters.add_routes(admin, acting)
    aliases.add_routes(admin, acting)
    tenants.add_routes(admin, acting)
    upkeep.add_routes(admin, acting)
    moves.add_routes(admin, moving)
    # Engine servers ask here; theirs is another scope than the other routes'.
    pulling = APIRouter(route_class=routes_behind(gate.pull), **options)
    moves.add_pulling(pulling, moving)
    both = APIRouter()
    both.include_router(admin)
    both.include_router(pulling)
    return both
