"""The gate in front of the routes: what each kind of caller gets, and what they can't tell."""

import re
from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from adapters_store import AdapterStore, StoreConfig
from adapters_store.errors import StoreUnavailable
from adapters_store.spending import RateLimit
from t2l_router.access import GRACE_S, REFRESH_S, Access
from t2l_router.bootstrap import build_router
from t2l_router.config import Settings
from t2l_router.gate import Gate
from t2l_router.metrics import Metrics
from t2l_router.readiness import Readiness
from t2l_router.server import create_app
from tests.routers import answer, echo_router, open_store

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Outage:
    """Keys in a database that can go away."""

    def __init__(self, keys):
        self.keys = keys
        self.is_away = False

    def __getattr__(self, name):
        if self.is_away:
            raise StoreUnavailable("/srv/secret/library.db is gone")
        return getattr(self.keys, name)


@pytest.fixture(name="store")
def _store(tmp_path):
    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "keys", index="exact")) as store:
        yield store


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="outage")
def _outage(store):
    return Outage(store.keys)


@pytest.fixture(name="client")
def _client(tmp_path, store, outage, clock):
    readiness = Readiness()
    readiness.finish(build_router(Settings(engine="echo", data_dir=tmp_path / "data")))
    access = Access(outage, store.spending, hosts=("ok",), clock=clock)
    app = create_app(
        readiness,
        max_body_bytes=1 << 20,
        keep_alive_s=5,
        gate=Gate(access),
        store=store,
        metrics=Metrics(readiness),
    )
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("GET", "/metrics"),
    ("POST", "/admin/keys"),
]
OPEN = {"/health/live", "/health/ready"}


def operations(client):
    """Every method and path of the OpenAPI document, and what isn't in it."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            yield method.upper(), re.sub(r"\{[^}]*\}", "x", path)
    yield "GET", "/metrics"


@pytest.mark.parametrize("key", [None, "t2l_000000000000_" + "a" * 43, "x", "ü"])
def test_no_way_around_the_key(client, store, key):
    """Each route asks for a key before it reads anything: nonsense gets no other answer."""
    store.keys.create("acme")
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    headers["content-type"] = "application/json"
    asked = [(method, path) for method, path in operations(client) if path not in OPEN]
    assert len(asked) > 40

    for method, path in asked:
        answer = client.request(method, path, headers=headers, content=b"nonsense")
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "t2l.localhost",
        "127.0.0.1:80",
        "[::1]:8000",
        "10.0.0.7",
        "ok",
    ],
)
def test_hosts_without_keys(client, host):
    """A server that needs no key answers by this machine's names, addresses and those set."""
    assert client.post("/v1/chat/completions", json=CHAT, headers={"host": host}).is_success


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
     "evil-localhost", "[evil", "1.2.3.4.5", "xn--localhost", "ok.evil.example", "0x7f.1"],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_dns_rebinding(client, method, path, host):
    """A web page whose name was made to resolve to this machine gets nothing, on any route."""
    headers = {"host": host, "origin": f"http://{host}"}

    answer = client.request(method, path, headers=headers, json=CHAT)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_refused"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://6.6.6.6", "http://[evil", "", "file://"]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_strangers_page(client, method, path, origin):
    """A web page of another site can't even send what needs no answer."""
    answer = client.request(method, path, headers={"origin": origin}, json=CHAT)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_refused"


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8", "https://ok"]
)
def test_pages_of_this_machine(client, origin):
    """Pages of this machine and of the names that are set may ask."""
    answer = client.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})

    assert answer.is_success


def test_any_host_with_a_key(client, store):
    """Where a key is needed a proxy may pass on the name by which it was reached."""
    _, secret = store.keys.create("acme")
    headers = bearer(secret) | {"host": "t2l.example"}

    assert client.post("/v1/chat/completions", json=CHAT, headers=headers).is_success


def test_probes_need_no_key(client, store):
    """Health stays open."""
    store.keys.create("acme")

    assert client.get("/health/live").status_code == client.get("/health/ready").status_code == 200


def test_scopes(client, store):
    """A chat key reads no metrics; an admin key alone does not chat."""
    _, chat = store.keys.create("acme")
    _, admin = store.keys.create("acme", scopes=("admin",))

    asked = [
        client.get("/metrics", headers=bearer(chat)),
        client.get("/metrics", headers=bearer(admin)),
        client.post("/v1/chat/completions", json=CHAT, headers=bearer(admin)),
        client.post("/v1/chat/completions", json=CHAT, headers=bearer(chat)),
    ]

    assert [answer.status_code for answer in asked] == [403, 200, 403, 200]


def test_tenant_comes_from_the_key(client, store):
    """Nothing in body, header or query makes one tenant another."""
    _, mine = store.keys.create("acme")
    _, theirs = store.keys.create("rival")
    extra = {"t2l_description": "Translate the text into French"}
    made = client.post("/v1/chat/completions", json=CHAT | extra, headers=bearer(mine)).json()
    name = f"t2l:{made['t2l']['adapter']}"

    posing = {
        "tenant": "acme",
        "user": "acme",
        "metadata": {"tenant": "acme"},
    }
    headers = bearer(theirs) | {"x-tenant": "acme", "x-t2l-tenant": "acme"}
    as_other = client.post(
        "/v1/chat/completions?tenant=acme", json=CHAT | posing | {"model": name}, headers=headers
    )
    missing = client.post(
        "/v1/chat/completions", json=CHAT | {"model": f"t2l:t2l-{'0' * 32}"}, headers=headers
    )

    assert as_other.status_code == missing.status_code == 404
    assert name not in client.get("/v1/models", headers=headers).text
    assert client.get(f"/v1/models/{name}", headers=headers).status_code == 404
    assert client.get(f"/v1/models/{name}", headers=bearer(mine)).status_code == 200
    # Nothing tells an adapter of somebody else's from one that never was.
    told = [answer.json()["error"] | {"message": ""} for answer in (as_other, missing)]
    assert told[0] == told[1]


def test_another_tenants_task_is_not_reused(client, store):
    """The same description makes an adapter for each tenant: reuse tells nothing of others."""
    extra = {"t2l_description": "Sum up the mail"}
    secrets = [store.keys.create(tenant)[1] for tenant in ("acme", "rival")]
    decisions = []
    for secret in secrets:
        answer = client.post("/v1/chat/completions", json=CHAT | extra, headers=bearer(secret))
        decisions.append(answer.json()["t2l"]["decision"])

    assert decisions == ["generated", "generated"]


def test_limits(client, store, clock):
    """Above its limit a tenant gets a 429 with what a client needs; others don't notice."""
    _, mine = store.keys.create("acme")
    _, theirs = store.keys.create("rival")
    store.spending.limit("acme", RateLimit(requests_per_minute=1))

    first = client.post("/v1/chat/completions", json=CHAT, headers=bearer(mine))
    second = client.post("/v1/chat/completions", json=CHAT, headers=bearer(mine))
    other = client.post("/v1/chat/completions", json=CHAT, headers=bearer(theirs))
    listed = client.get("/v1/models", headers=bearer(mine))
    clock.now += 60
    later = client.post("/v1/chat/completions", json=CHAT, headers=bearer(mine))

    answers = (first, second, other, listed, later)
    assert [answer.status_code for answer in answers] == [200, 429, 200, 200, 200]
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert second.headers["retry-after"] == "60"


def test_store_goes_away_and_comes_back(client, store, outage, clock):
    """Ready flips and recovers; known keys work meanwhile; nothing of the store's inside shows."""
    _, secret = store.keys.create("acme")
    assert client.get("/health/ready").status_code == 200
    outage.is_away = True
    clock.now += REFRESH_S

    gone = client.get("/health/ready")
    meanwhile = client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))
    clock.now += GRACE_S + 1
    too_long = client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))
    outage.is_away = False
    clock.now += REFRESH_S
    back = client.get("/health/ready")

    assert gone.json() == {
        "status": "unavailable",
        "phase": "the adapter library can't be reached",
    }
    assert [a.status_code for a in (gone, meanwhile, too_long, back)] == [503, 200, 503, 200]
    assert too_long.headers["retry-after"] == "2"
    assert "secret" not in gone.text + too_long.text


async def test_the_librarys_inside_stays_inside(tmp_path, monkeypatch):
    """While the library is away, what clients read of it holds no address or path."""
    store = open_store(tmp_path)
    router = echo_router(tmp_path, store=store)

    @contextmanager
    def gone(*_):
        raise StoreUnavailable("connection to 10.0.0.3:5432 refused, /srv/secret")
        yield

    monkeypatch.setattr(store.ledger.database, "read", gone)
    monkeypatch.setattr(store.ledger.database, "write", gone)
    decision, text = await answer(router, t2l_description="Translate")
    listed = await router.models("local")
    await router.close()

    assert text.endswith("hello")
    assert "unavailable" in decision.reason
    assert "10.0.0.3" not in decision.reason + str(listed)


def test_secrets_stay_out_of_logs(client, store, caplog):
    """Neither keys nor what was said is logged, whichever way it goes."""
    _, secret = store.keys.create("acme")
    caplog.set_level("DEBUG")
    told = {"t2l_description": "hush-hush", "user": "hush-hush"}
    for key in (secret, secret[:-1]):
        client.post("/v1/chat/completions", json=CHAT | told, headers=bearer(key))
        client.post("/v1/chat/completions", content=b'{"hush-hush', headers=bearer(key))

    ours = [r.getMessage() + str(r.__dict__) for r in caplog.records if r.name.startswith("t2l")]
    assert secret[-20:] not in str(ours)
    assert "hush-hush" not in str(ours)
