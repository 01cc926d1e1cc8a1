"""The application that serves: it answers at once and loads in the background."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp

from adapters_store import AdapterStore
from adapters_store.spending import RateLimit
from t2l_router.access import Access
from t2l_router.bootstrap import build_router
from t2l_router.config import Settings
from t2l_router.gate import Gate
from t2l_router.logs import log_exchange
from t2l_router.metrics import Metrics
from t2l_router.observing import Observer
from t2l_router.readiness import Readiness
from t2l_router.server import create_app

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)


def build_app(
    settings: Settings,
    readiness: Readiness,
    *,
    access: Access | None = None,
    store: "AdapterStore | None" = None,
    progress: "Progress | None" = None,
    admin_port: int | None = None,
    metrics_dir: Path | None = None,
) -> ASGIApp:
    """
    Build the server; it answers at once and loads in the background.

    Args:
        settings: What to serve.
        readiness: Says when it is loaded, or why it could not be.
        access: Keys and limits; None lets everybody in.
        store: The library; None opens one and leaves the admin API out.
        progress: Where bars are drawn for what is pulled.
        admin_port: The only port of the admin API and of metrics, if they have one of their own.
        metrics_dir: Where several processes add up their metrics.
    """
    slots = settings.slots if settings.engine == "local" else None
    metrics = Metrics(readiness, slots=slots, shared=metrics_dir)

    def load() -> None:
        start = time.perf_counter()
        try:
            with progress or nullcontext():
                router = build_router(
                    settings, store=store, enter=readiness.enter, progress=progress
                )
        except Exception as error:  # noqa: BLE001 - the thread's end; whoever serves reports it
            readiness.fail(error)
            return
        readiness.finish(router)
        logger.info("ready after %.1f s", time.perf_counter() - start)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=load, name="t2l-load", daemon=True).start()
        tasks = [asyncio.create_task(metrics.keep_fresh())] if metrics_dir else []
        if access:
            tasks.append(asyncio.create_task(access.keep_accounts()))
        yield
        for task in tasks:
            task.cancel()
        if access:
            await access.save()
        # Also with an engine that is not well: what waits to be written is still to be written.
        if readiness.is_loaded:
            await readiness.router.close()

    return create_app(
        readiness,
        max_body_bytes=settings.max_body_bytes,
        keep_alive_s=settings.keep_alive_s,
        max_import_bytes=settings.max_import_bytes,
        strict=settings.strict_requests,
        gate=Gate(access),
        store=store,
        metrics=metrics,
        admin_port=admin_port,
        observers=_observers(settings),
        lifespan=lifespan,
    )


def _observers(settings: Settings) -> list[Observer]:
    if settings.tracing == "off":
        return [log_exchange]
    # Lazy: an optional dependency.
    from t2l_router.tracing import open_tracing  # noqa: PLC0415

    return [log_exchange, open_tracing().observe]


def build_access(settings: Settings, store: AdapterStore, *, closed: bool) -> Access:
    """
    Build what lets requests in.

    Args:
        settings: Limits of tenants that have none of their own.
        store: Holds the keys.
        closed: Let nobody in without a key, even where there is none.
    """
    return Access(
        store.keys,
        store.spending,
        defaults=default_limits(settings),
        closed=closed,
        hosts=settings.allowed_hosts,
    )


def default_limits(settings: Settings) -> RateLimit:
    """The limits of tenants that have none of their own."""
    return RateLimit(
        settings.requests_per_minute, settings.tokens_per_minute, settings.tokens_per_day
    )
