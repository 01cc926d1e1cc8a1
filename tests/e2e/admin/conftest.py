"""A server with a library and an admin key of each tenant, and its command line."""

import json

import click.testing
import httpx
import pytest

from adapters_store import AdapterStore, StoreConfig
from t2l_router.access import Access
from t2l_router.cli import adapters as noun
from t2l_router.cli.main import Program
from t2l_router.engines.echo import EchoEngine
from t2l_router.gate import Gate
from tests.adapter_files import BASE, make_files, make_task
from tests.e2e.conftest import serve

MAX_IMPORT_BYTES = 1 << 21  # more than other bodies may have


@pytest.fixture(scope="module", name="store")
def _store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("library")
    with AdapterStore.open(StoreConfig.in_directory(directory, index="exact")) as store:
        yield store


@pytest.fixture(scope="module", name="keys")
def _keys(store):
    """An admin key of each tenant."""
    tenants = ("local", "acme", "rival")
    return {tenant: store.keys.create(tenant, scopes=("admin",))[1] for tenant in tenants}


@pytest.fixture(scope="module", name="url")
def _url(store, keys):
    gate = Gate(Access(store.keys, store.spending))
    with serve(EchoEngine(), gate=gate, store=store, max_import_bytes=MAX_IMPORT_BYTES) as served:
        yield served.url


@pytest.fixture(name="ask")
def _ask(url, keys):
    """Ask as a tenant; the answer."""

    def ask(method, path, tenant="acme", headers=None, **options):
        headers = {"authorization": f"Bearer {keys[tenant]}"} | (headers or {})
        return httpx.request(method, f"{url}/admin{path}", headers=headers, timeout=30, **options)

    return ask


_seeds = iter(range(1, 10_000))


@pytest.fixture(name="add")
def _add(store):
    """Add a new adapter of the tenant acme, or of another."""

    def add(tenant="acme", **options):
        seed = next(_seeds)
        task = make_task(seed, f"Answer in style number {seed}")
        return store.add(make_files(seed), tenant=tenant, base=BASE, task=task, **options)

    return add


@pytest.fixture(name="record")
def _record(add):
    """A new adapter of the tenant acme."""
    return add()


@pytest.fixture(name="t2l")
def _t2l(url, keys, monkeypatch, tmp_path):
    """Run ``t2l adapters ... --server`` as acme's admin on a machine without a library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2L_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("T2L_API_KEY", keys["acme"])

    def run(*args, code=0):
        program = Program("t2l", context_settings={"help_option_names": ["-h", "--help"]})
        program.get_command = lambda *_: noun.command
        given = ["adapters", *args, "--server", url, "--format", "json"]
        result = click.testing.CliRunner().invoke(program, given)
        assert result.exit_code == code, result.output
        assert not (tmp_path / "none").exists()
        return json.loads(result.stdout) if result.stdout else result.stderr

    return run
