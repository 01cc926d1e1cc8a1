import socket
import threading

import pytest

from t2l_router.cli.serve import listen
from t2l_router.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listen(host):
    """A port is opened by name and by address of either kind; 0 takes a free one."""
    with listen(host, 0) as listening:
        assert listening.getsockname()[1] > 0


def test_answers_are_not_held_back():
    """Connections know that they are TCP, or asyncio leaves Nagle on: 40 ms for every answer."""
    with listen("127.0.0.1", 0) as listening:
        client = threading.Thread(
            target=lambda: socket.create_connection(listening.getsockname()).close()
        )
        client.start()
        connection, _ = listening.accept()
        client.join()
        connection.close()

    assert connection.proto == socket.IPPROTO_TCP


def test_port_in_use():
    """A second server on the same port is refused, with the way out."""
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use; stop"):
            listen("127.0.0.1", port)


def test_port_is_free_at_once():
    """A port whose server has just ended can be used again without waiting."""
    with listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address):
            connection, _ = listening.accept()
            connection.close()

    listen(*address).close()


def test_unknown_host():
    """A name that doesn't resolve is told as such."""
    with pytest.raises(ConfigError, match="--host"):
        listen("no.such.host.invalid", 0)
