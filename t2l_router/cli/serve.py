"""``t2l serve``: the HTTP server."""

import errno
import ipaddress
import logging
import socket
from datetime import UTC, datetime

import click
import uvicorn

from adapters_store import AdapterStore
from t2l_router import storage
from t2l_router.bootstrap import build_access, build_app
from t2l_router.cli.loading import bars
from t2l_router.cli.options import settings_options
from t2l_router.config import Settings
from t2l_router.errors import ConfigError
from t2l_router.readiness import Readiness


@click.command()
@settings_options("host", "port", "base_model", "hypernet", "engine", "device", "log_level")
def command(settings: Settings) -> None:
    """
    Serve the OpenAI-compatible API.

    Models that are missing are pulled first. The server answers /health/live at once and
    /health/ready when it can chat. Ctrl-C or SIGTERM finishes the running answers.
    """
    _log_to_stderr(settings.log_level)
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
            build_app(settings, readiness, access=access, progress=bars()),
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=settings.drain_s,
        )
        _Server(config, readiness).run(sockets=[listening])
    if readiness.error:
        raise readiness.error


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


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", level=logging.WARNING)
    for name in ("t2l_router", "adapters_store", "uvicorn.access"):
        logging.getLogger(name).setLevel(level.upper())
