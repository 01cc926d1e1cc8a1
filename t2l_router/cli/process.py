"""One process that serves: it takes connections from sockets that are open already."""

import ipaddress
import logging
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from adapters_store import AdapterStore
from t2l_router import logs
from t2l_router.access import Access
from t2l_router.application import build_access, build_app, default_limits
from t2l_router.cli.loading import bars
from t2l_router.config import Settings, load
from t2l_router.errors import ConfigError
from t2l_router.readiness import Readiness

logger = logging.getLogger(__name__)
_LIVE_SETTINGS = frozenset(
    {"log_level", "log_format", "requests_per_minute", "tokens_per_minute", "tokens_per_day"}
)
# Longer than clients (httpx 5 s) and load balancers (60 s) keep idle connections: who closes first
# must be the one who sends, or a request meets a connection that is just being closed.
_KEEP_ALIVE_S = 75


@dataclass(frozen=True, slots=True)
class Doors:
    """
    Open sockets.

    Args:
        main: For everybody.
        admin: For the admin API and metrics, where they have a port of their own.
    """

    main: socket.socket
    admin: socket.socket | None = None

    @property
    def all(self) -> list[socket.socket]:
        """Those that there are."""
        return [door for door in (self.main, self.admin) if door is not None]

    @property
    def network_host(self) -> str | None:
        """An address that others than this machine's programs reach, if there is one."""
        hosts = (door.getsockname()[0] for door in self.all)
        return next((host for host in hosts if not ipaddress.ip_address(host).is_loopback), None)


def serve(
    settings: Settings,
    flags: dict[str, Any],
    doors: Doors,
    store: AdapterStore,
    *,
    metrics_dir: Path | None = None,
) -> None:
    """
    Serve until a signal ends it.

    Args:
        settings: What to serve.
        flags: From the command line; SIGHUP reads the other sources again.
        doors: Where connections come in; without a key nobody comes in from the network.
        store: The library; it stays open.
        metrics_dir: Where several processes add up their metrics.

    Raises:
        T2LError: What is to be served can't be loaded.
    """
    readiness = Readiness()
    access = build_access(settings, store, closed=doors.network_host is not None)
    app = build_app(
        settings,
        readiness,
        access=access,
        store=store,
        progress=bars(),
        admin_port=doors.admin.getsockname()[1] if doors.admin else None,
        metrics_dir=metrics_dir,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        ws="none",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    reloading = Reloading(settings, flags, access)
    # Not asyncio's handler: it works before there is a loop, and on the main thread alone.
    signal.signal(signal.SIGHUP, lambda *_: reloading.reload())
    _Server(config, readiness).run(sockets=doors.all)
    if readiness.error:
        raise readiness.error


class Reloading:
    """
    Takes over changed settings while the server runs, those that can be.

    Args:
        settings: In effect now.
        flags: From the command line; they still win.
        access: Takes new limits.
    """

    def __init__(self, settings: Settings, flags: dict[str, Any], access: Access) -> None:
        self._settings = settings
        self._flags = flags
        self._access = access

    def reload(self) -> None:
        """Read the settings again; bad ones change nothing, and what needs a restart is named."""
        try:
            new = load(self._flags)
        except ConfigError as error:
            logger.error("nothing is reloaded: %s", error)  # noqa: TRY400 - the text says it all
            return
        changed = {
            name
            for name in Settings.model_fields
            if getattr(new, name) != getattr(self._settings, name)
        }
        logs.set_up(new.log_level, new.log_format)
        self._access.use_defaults(default_limits(new))
        self._settings = self._settings.model_copy(
            update={name: getattr(new, name) for name in changed & _LIVE_SETTINGS}
        )
        logger.warning("reloaded: %s", ", ".join(sorted(changed & _LIVE_SETTINGS)) or "no change")
        if waiting := changed - _LIVE_SETTINGS:
            logger.warning("after a restart: %s", ", ".join(sorted(waiting)))


class _Server(uvicorn.Server):
    """Ends by itself if the models can't be loaded."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness) -> None:
        super().__init__(config)
        self._readiness = readiness

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when the end begins and when it is there: between them answers are finished."""
        logger.info(
            "stopping; running answers get up to %d s", self.config.timeout_graceful_shutdown
        )
        await super().shutdown(sockets)
        logger.info("stopped")

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._readiness.error is not None
