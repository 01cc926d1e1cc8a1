"""``t2l serve``: the HTTP server."""

import errno
import ipaddress
import logging
import signal
import socket
from datetime import UTC, datetime
from typing import Any

import click
import uvicorn

from adapters_store import AdapterStore
from t2l_router import logs, storage
from t2l_router.access import Access
from t2l_router.application import build_access, build_app, default_limits
from t2l_router.cli.loading import bars
from t2l_router.cli.options import settings_options
from t2l_router.config import Settings, load
from t2l_router.errors import ConfigError
from t2l_router.readiness import Readiness

logger = logging.getLogger(__name__)
_LIVE_SETTINGS = frozenset(
    {"log_level", "log_format", "requests_per_minute", "tokens_per_minute", "tokens_per_day"}
)


@click.command()
@settings_options(
    "host", "port", "base_model", "hypernet", "engine", "device", "log_level", "log_format"
)
def command(settings: Settings) -> None:
    """
    Serve the OpenAI-compatible API.

    Models that are missing are pulled first. The server answers /health/live at once and
    /health/ready when it can chat. Ctrl-C or SIGTERM finishes the running answers; SIGHUP takes
    over changed limits and log settings.
    """
    logs.set_up(settings.log_level, settings.log_format)
    flags = dict(click.get_current_context().params)
    listening = listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    with storage.open_library(settings, actor="server") as store:
        closed = not _is_loopback(host)
        if closed:
            _require_key(store, host)
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"t2l serves http://{shown}:{port}/v1 - Ctrl-C stops it", err=True)
        readiness = Readiness()
        access = build_access(settings, store, closed=closed)
        config = uvicorn.Config(
            build_app(settings, readiness, access=access, store=store, progress=bars()),
            log_config=None,
            ws="none",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_s,
        )
        reloading = Reloading(settings, flags, access)
        # Not asyncio's handler: it works before there is a loop, and on the main thread alone.
        signal.signal(signal.SIGHUP, lambda *_: reloading.reload())
        _Server(config, readiness).run(sockets=[listening])
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


def _require_key(store: AdapterStore, host: str) -> None:
    """
    Make sure that strangers on the network need a key.

    Raises:
        ConfigError: There is none that opens anything.
    """
    now = datetime.now(UTC)
    for key in store.keys.list():
        if key.revoked_at is None and (key.expires_at is None or key.expires_at > now):
            return
    raise ConfigError(
        f"everyone who reaches {host} could chat, because there is no API key; "
        "make one with `t2l keys create TENANT`, or listen on 127.0.0.1"
    )


class _Server(uvicorn.Server):
    """Ends by itself if the models can't be loaded."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness) -> None:
        super().__init__(config)
        self._readiness = readiness

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._readiness.error is not None


def listen(host: str, port: int) -> socket.socket:
    """
    Open a port; done before anything is loaded, so that a wrong one shows at once.

    Raises:
        ConfigError: The port is in use, or the address isn't this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=2_048)
    except OSError as error:
        hint = "stop what listens there, or give another --port"
        if error.errno != errno.EADDRINUSE:
            hint = "give an address of this machine with --host and a free --port"
        why, _, _ = (error.strerror or str(error)).partition(" (while")
        raise ConfigError(f"can't listen on {host}:{port}: {why}; {hint}") from None
    # Made anew with its protocol named: asyncio switches Nagle's algorithm off only where it knows
    # that a socket is TCP, and with Nagle every answer waits 40 ms for the client's delayed ACK.
    return socket.socket(family, kind, protocol, fileno=listening.detach())


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
