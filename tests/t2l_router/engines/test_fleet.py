"""Which server answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.engines.fleet import SPILL_FLOOR, Fleet, Server, rank
from tests.vllm_server import VllmServer, served, shows

URLS = [f"http://10.0.0.{number}:8000" for number in range(1, 6)]
KEYS = [f"t2l-{number:032x}" for number in range(1_000)]


@pytest.fixture
def fleet(monkeypatch):
    """A fleet whose servers nobody asks."""
    monkeypatch.setattr(Fleet, "_probe", lambda _: None)
    return Fleet(URLS, max_in_flight=10)


def home(key, urls):
    return rank(key, [Server(url) for url in urls])[0].url


def test_every_server_gets_its_share():
    """Adapters spread evenly, whatever the order in which the servers are named."""
    homes = [home(key, URLS) for key in KEYS]

    assert [homes.count(url) for url in URLS] == pytest.approx([200] * 5, abs=50)
    assert [home(key, URLS[::-1]) for key in KEYS] == homes


def test_a_lost_server_moves_its_own_adapters_only():
    """When a server goes, the adapters of the others stay where they are."""
    lost, *rest = URLS

    moved = [key for key in KEYS if home(key, URLS) != home(key, rest)]

    assert moved == [key for key in KEYS if home(key, URLS) == lost]


def test_load_spills_over(fleet):
    """A server with more than its share passes the rest on to the next in the ranking."""
    first, second, *_ = rank("hot", fleet.servers)
    first.in_flight = SPILL_FLOOR

    assert fleet.choose("hot")[0] is second


def test_a_little_load_does_not_spill(fleet):
    """Few requests at once leave an adapter on its server."""
    first, *_ = rank("hot", fleet.servers)
    first.in_flight = SPILL_FLOOR - 1

    assert fleet.choose("hot")[0] is first


@given(loads=st.lists(st.integers(0, 10), min_size=5, max_size=5))
def test_bounded_loads(loads):
    """Nobody is chosen who is full, and whoever is chosen first is not above a quarter more."""
    fleet = Fleet.__new__(Fleet)
    fleet.servers = tuple(map(Server, URLS))
    fleet._max_in_flight = 10
    for server, load in zip(fleet.servers, loads, strict=True):
        server.in_flight = load

    chosen = fleet.choose("key")

    assert {server.url for server in chosen} == {s.url for s in fleet.servers if s.in_flight < 10}
    if chosen:
        assert chosen[0].in_flight <= max(SPILL_FLOOR, 1.25 * (sum(loads) + 1) / 5)


def test_servers_that_are_down_are_left_out(fleet):
    """A server that is down is not asked, unless all are."""
    first, *rest = rank("key", fleet.servers)
    first.note(answer=False)
    assert fleet.choose("key") == rest

    for server in rest:
        server.note(answer=False)
    assert fleet.choose("key") == [first, *rest]


def test_a_single_silence_is_no_death():
    """A busy server may miss one probe; one that is down is not back because it is silent."""
    server = Server(URLS[0])

    server.note(answer=None)
    assert server.is_up
    server.note(answer=None)
    assert not server.is_up
    server.note(answer=True)
    server.note(answer=False)
    server.note(answer=None)
    assert not server.is_up


async def test_probes(monkeypatch):
    """A server that says it is ill is down within a probe, and back when it is well."""
    monkeypatch.setattr("t2l_router.engines.fleet._PROBE_EVERY_S", 0.02)
    with served(VllmServer()) as upstream:
        fleet = Fleet([upstream.url], max_in_flight=1)
        (server,) = fleet.servers

        upstream.is_well = False
        await shows(lambda: not server.is_up)
        upstream.is_well = True
        await shows(lambda: server.is_up)
        fleet.close()
