"""``t2l serve``: the HTTP server."""

import errno
import logging
import socket
from datetime import UTC, datetime

import click

from adapters_store import AdapterStore
from t2l_router import config, logs, storage
from t2l_router.cli import process
from t2l_router.cli.options import settings_options
from t2l_router.cli.process import Doors
from t2l_router.config import Settings
from t2l_router.errors import ConfigError

logger = logging.getLogger(__name__)


@click.command()
@settings_options(
    "host", "port", "admin_port", "workers", "data_dir",
    "base_model", "hypernet", "encoder", "engine", "device", "log_level", "log_format",
)  # fmt: skip
def command(settings: Settings) -> None:
    """
    Serve the OpenAI-compatible API.

    Models that are missing are pulled first. The server answers /health/live at once and
    /health/ready when it can chat. Ctrl-C or SIGTERM finishes the running answers; SIGHUP takes
    over changed limits and log settings.
    """
    logs.set_up(settings.log_level, settings.log_format)
    for name in config.strangers():
        logger.warning("%s is no setting; `t2l config` lists them", name)
    flags = dict(click.get_current_context().params)
    doors = open_doors(settings)
    # What would keep a process from starting is told once, before any promise; and the library is
    # there for all of them.
    with storage.open_library(settings, actor="server") as store:
        if doors.network_host is not None:
            require_key(store, doors.network_host)
        click.echo(f"t2l serves {_url(doors.main)}/v1 - Ctrl-C stops it", err=True)
        if doors.admin is not None:
            click.echo(f"/admin and /metrics are at {_url(doors.admin)}", err=True)
        if settings.workers == 1:
            process.serve(settings, flags, doors, store)
            return
    # Lazy: a single process needs none of it.
    from t2l_router.cli.workers import Workers  # noqa: PLC0415

    Workers(settings, flags, doors).run()


def require_key(store: AdapterStore, host: str) -> None:
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


def open_doors(settings: Settings) -> Doors:
    """
    Open the ports that the settings name.

    Raises:
        ConfigError: One is in use, or its address isn't this machine's.
    """
    main = listen(settings.host, settings.port)
    if settings.admin_port is None:
        return Doors(main)
    try:
        return Doors(main, listen(settings.admin_host, settings.admin_port, option="admin-port"))
    except ConfigError:
        main.close()
        raise


def listen(host: str, port: int, *, option: str = "port") -> socket.socket:
    """
    Open a port; done before anything is loaded, so that a wrong one shows at once.

    Args:
        host: Name or address.
        port: Its number; 0 takes a free one.
        option: By which another is given.

    Raises:
        ConfigError: The port is in use, or the address isn't this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=2_048)
    except OSError as error:
        hint = f"stop what listens there, or give another --{option}"
        if error.errno != errno.EADDRINUSE:
            hint = "give an address of this machine with --host and a free --port"
        why, _, _ = (error.strerror or str(error)).partition(" (while")
        raise ConfigError(f"can't listen on {host}:{port}: {why}; {hint}") from None
    # Made anew with its protocol named: asyncio switches Nagle's algorithm off only where it knows
    # that a socket is TCP, and with Nagle every answer waits 40 ms for the client's delayed ACK.
    return socket.socket(family, kind, protocol, fileno=listening.detach())


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
