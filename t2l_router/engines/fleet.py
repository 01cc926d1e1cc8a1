"""
Which of many servers answers a request: the one that holds the adapter, unless it has too much.

Rendezvous hashing: every router ranks the servers by a hash of adapter and server, so that all send
an adapter's requests to the same one without a word between them, and a server that comes or goes
moves its own adapters only. Bounded loads: a server with a quarter more than its share passes the
rest on, to the next in the same ranking.
"""

import hashlib
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx

logger = logging.getLogger(__name__)

SPILL_FACTOR = 1.25
SPILL_FLOOR = 4
"""So few requests are no load: below it, an adapter stays where it is."""

_PROBE_EVERY_S = 2.0
_PROBE_TIMEOUT_S = 2.0
_SILENT_PROBES = 2


class Server:
    """
    One server, as this router sees it.

    Args:
        url: Its address, without a path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_up = True
        self.in_flight = 0
        self._silent_probes = 0

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Count a request for as long as the block runs."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def note(self, answer: bool | None) -> None:
        """
        Take in what a probe found.

        Args:
            answer: Whether the server said that it is well; None if it said nothing in time, which
                a busy server may do once.
        """
        self._silent_probes = self._silent_probes + 1 if answer is None else 0
        was_up = self.is_up
        self.is_up = self._silent_probes < _SILENT_PROBES and was_up if answer is None else answer
        if self.is_up != was_up:
            logger.warning("%s is %s", self.url, "back" if self.is_up else "down")


class Fleet:
    """
    The servers, and a thread that asks each whether it is well.

    Args:
        urls: Their addresses; routers that share adapters name them alike.
        max_in_flight: Requests of this router at each of them.
    """

    def __init__(self, urls: Sequence[str], *, max_in_flight: int) -> None:
        self.servers = tuple(Server(url.rstrip("/")) for url in urls)
        self._max_in_flight = max_in_flight
        self._wake = threading.Event()
        self._closing = False
        self._probing = threading.Thread(target=self._probe, name="t2l-probe", daemon=True)
        self._probing.start()

    def choose(self, key: str) -> list[Server]:
        """
        The servers with room for a request, the one to ask first in front.

        Args:
            key: What should stay on one server: an adapter's id.

        Returns:
            None of them if all are full. Servers that are down come only if all are.
        """
        live = [server for server in self.servers if server.is_up] or list(self.servers)
        total = sum(server.in_flight for server in live)
        share = max(SPILL_FLOOR, math.ceil(SPILL_FACTOR * (total + 1) / len(live)))
        ranked = [server for server in rank(key, live) if not self.is_full(server)]
        # Stable: within either half the ranking stays.
        return sorted(ranked, key=lambda server: server.in_flight >= share)

    def is_full(self, server: Server) -> bool:
        """Whether the server has as many requests as it may be given."""
        return server.in_flight >= self._max_in_flight

    def doubt(self, server: Server, *, is_down: bool) -> None:
        """Ask the servers at once, after a request to one failed."""
        if is_down:
            server.note(answer=False)
        self._wake.set()

    def close(self) -> None:
        """Stop asking."""
        self._closing = True
        self._wake.set()
        self._probing.join()

    def _probe(self) -> None:
        # A thread with its own client: a busy event loop must not make servers look silent.
        with httpx.Client(timeout=_PROBE_TIMEOUT_S) as http:
            while not self._closing:
                self._wake.clear()
                for server in self.servers:
                    server.note(_is_well(http, server.url))
                self._wake.wait(_PROBE_EVERY_S)


def rank(key: str, servers: Sequence[Server]) -> list[Server]:
    """Order the servers by their claim on a key."""
    return sorted(servers, key=lambda server: _claim(key, server.url), reverse=True)


def _claim(key: str, url: str) -> bytes:
    return hashlib.blake2b(f"{key} {url}".encode(), digest_size=8).digest()


def _is_well(http: httpx.Client, url: str) -> bool | None:
    try:
        return http.get(f"{url}/health").is_success
    except httpx.TimeoutException:
        return None
    except httpx.HTTPError:
        return False
