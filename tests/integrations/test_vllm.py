"""The vLLM plugin without vLLM: what is fetched, what is kept, what is refused."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import fsspec
import pytest

from adapters_store.blobs import MANIFEST_FILE, LocalBlobs, ObjectBlobs
from adapters_store.errors import StoreFull, StoreUnavailable
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE
from integrations import vllm
from integrations.vllm import settings as plugin_settings
from integrations.vllm.adapters import LocalAdapters
from integrations.vllm.base_model import base_fingerprint
from integrations.vllm.sources import DirectorySource, ObjectSource, open_source
from t2l_router import config
from t2l_router.errors import AdapterRefused, ConfigError, ModelUnavailable
from tests.adapter_files import BASE, make_config, make_files

ROOT = Path(__file__).parents[2]
FILES = make_files().canonical()
ID = FILES.adapter_id(BASE)
UNKNOWN = "t2l-" + "0" * 32


class Counting:
    """A source that counts what it is asked for, and waits if told to."""

    def __init__(self, source):
        self.source, self.asked, self.go_on = source, [], threading.Event()
        self.go_on.set()

    def fetch(self, adapter_id):
        self.asked.append(adapter_id)
        assert self.go_on.wait(10)
        return self.source.fetch(adapter_id)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(name="shared")
def _shared(tmp_path):
    """The blobs of a library with one adapter, in a directory."""
    blobs = LocalBlobs(tmp_path / "shared")
    blobs.put(ID, BASE, FILES)
    return blobs


@pytest.fixture(name="source")
def _source(shared):
    return Counting(DirectorySource(shared.root))


@pytest.fixture(name="adapters")
def _adapters(source, tmp_path):
    return local(source, tmp_path)


def local(source, tmp_path, **options):
    defaults = {"base": lambda: BASE, "max_bytes": 1 << 30, "clock": Clock()}
    return LocalAdapters(source, tmp_path / "copies", **defaults | options)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


async def test_first_use_copies(adapters, source, tmp_path):
    """The first use copies the adapter, the next ones read the copy."""
    path = await adapters.directory(ID)

    assert path.is_relative_to(tmp_path / "copies")
    assert names(path) == sorted([CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE])
    assert (path / WEIGHTS_FILE).read_bytes() == FILES.weights
    assert await adapters.directory(ID) == path
    assert source.asked == [ID]


async def test_copy_outlives_its_source(adapters, shared, tmp_path):
    """What was fetched once is served after the library removed it, also by a new server."""
    path = await adapters.directory(ID)
    shutil.rmtree(shared.root)

    assert await adapters.directory(ID) == path
    again = local(DirectorySource(shared.root), tmp_path)
    assert await again.directory(ID) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "smollm3",
        "t2l-../../etc/passwd",
        f"../outside/{ID}",
        f"/abs/{ID}",
        f"{ID}/..",
        f"{ID}\n",
        ID.upper(),
        ID[:-1],
        f"{ID}0",
        "t2l-" + "\N{FULLWIDTH DIGIT ONE}" * 32,
        f"{ID}\x00",
    ],
)
async def test_other_names_are_not_looked_up(adapters, source, tmp_path, name):
    """Whatever is not exactly an id is unknown before any file is looked at."""
    assert await adapters.directory(name) is None
    assert source.asked == []
    assert not (tmp_path / "copies").exists()


async def test_unknown_is_remembered_for_a_while(source, shared, tmp_path):
    """A name that nobody knows is asked for once, and again when the time is over."""
    clock = Clock()
    adapters = local(source, tmp_path, clock=clock, unknown_for_s=5)
    shared.delete(ID)
    assert await adapters.directory(ID) is None
    shared.put(ID, BASE, FILES)

    clock.now = 4.9
    assert await adapters.directory(ID) is None
    assert source.asked == [ID]

    clock.now = 5.1
    assert await adapters.directory(ID) is not None


async def test_misses_are_bounded(adapters, monkeypatch):
    """A scan of names can't fill the memory."""
    monkeypatch.setattr("integrations.vllm.adapters._MAX_MISSES", 3)
    for number in range(5):
        assert await adapters.directory(f"t2l-{number:032x}") is None
    assert len(adapters._misses) == 3
    assert f"t2l-{4:032x}" in adapters._misses


async def test_single_flight(adapters, source):
    """Twenty calls at once are one fetch."""
    source.go_on.clear()
    calls = [asyncio.create_task(adapters.directory(ID)) for _ in range(20)]
    await asyncio.sleep(0.05)
    source.go_on.set()

    assert len(set(await asyncio.gather(*calls))) == 1
    assert source.asked == [ID]


async def test_cancelled_call(adapters, source):
    """A caller who leaves neither stops the fetch nor the other callers."""
    source.go_on.clear()
    leaving, staying = (asyncio.create_task(adapters.directory(ID)) for _ in range(2))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.sleep(0)
    source.go_on.set()

    assert (await staying).name == ID
    assert leaving.cancelled()
    assert source.asked == [ID]


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


async def test_tampered_weights(adapters, shared, source, tmp_path):
    """One changed bit is refused, leaves no copy, and isn't fetched again at once."""
    flip(shared.path(ID) / WEIGHTS_FILE)
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="they were changed"):
            await adapters.directory(ID)
    assert source.asked == [ID]
    assert not list((tmp_path / "copies").rglob("*.safetensors"))


async def test_tampered_scaling(adapters, shared):
    """The id covers what the config says about the adapter's strength."""
    (shared.path(ID) / CONFIG_FILE).write_bytes(make_config(lora_alpha=400))
    with pytest.raises(AdapterRefused, match="they were changed"):
        await adapters.directory(ID)


async def test_config_is_written_anew(adapters, shared):
    """What the id does not cover never reaches vLLM."""
    config = make_config(auto_mapping={"parent_library": "os"}, unheard_of=1)
    (shared.path(ID) / CONFIG_FILE).write_bytes(config)

    copied = json.loads(((await adapters.directory(ID)) / CONFIG_FILE).read_bytes())
    assert not copied.keys() & {"auto_mapping", "unheard_of"}


async def test_missing_weights(adapters, shared):
    """A directory without weights is refused."""
    (shared.path(ID) / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterRefused, match="is missing"):
        await adapters.directory(ID)


async def test_other_base_model(source, tmp_path):
    """An adapter of another base model is refused, by both fingerprints."""
    adapters = local(source, tmp_path, base=lambda: "c" * 64)
    with pytest.raises(AdapterRefused, match=r"bbbbbbbbbbbb.*cccccccccccc"):
        await adapters.directory(ID)


async def test_copy_of_other_base_model(adapters, source, tmp_path):
    """The same holds where servers of two models share one cache."""
    await adapters.directory(ID)
    with pytest.raises(AdapterRefused, match="another base model"):
        await local(source, tmp_path, base=lambda: "c" * 64).directory(ID)


async def test_damaged_copy(adapters, source, tmp_path):
    """A copy that changed on the disk is refused, and left where it is."""
    path = await adapters.directory(ID)
    flip(path / WEIGHTS_FILE)
    with pytest.raises(AdapterRefused, match="stop the servers that use it"):
        await local(source, tmp_path).directory(ID)
    assert path.exists()


async def test_links(adapters, shared, tmp_path):
    """A directory that is a link out of the library, or holds one, is refused."""
    outside = tmp_path / "outside"
    shared.path(ID).rename(outside)
    shared.path(ID).symlink_to(outside)
    with pytest.raises(AdapterRefused, match="leads out"):
        await adapters.directory(ID)

    shared.path(ID).unlink()
    outside.rename(shared.path(ID))
    weights = shared.path(ID) / WEIGHTS_FILE
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterRefused, match="is a link"):
        await local(DirectorySource(shared.root), tmp_path).directory(ID)


async def test_link_in_the_cache(adapters, shared, tmp_path):
    """A copy that is a link out of the cache is refused."""
    path = tmp_path / "copies" / shared.path(ID).relative_to(shared.root)
    path.parent.mkdir(parents=True)
    path.symlink_to(shared.path(ID))
    with pytest.raises(AdapterRefused, match="leads out"):
        await adapters.directory(ID)


async def test_unmounted_source(adapters, shared):
    """A source that isn't there is an error that passes, not an empty library."""
    beside = shared.root.with_name("unmounted")
    shared.root.rename(beside)
    with pytest.raises(StoreUnavailable, match="is it mounted"):
        await adapters.directory(ID)
    beside.rename(shared.root)
    assert await adapters.directory(ID) is not None


async def test_full_cache(source, shared, tmp_path):
    """A full cache refuses new adapters and keeps the old, also after a restart."""
    other = make_files(1).canonical()
    shared.put(other.adapter_id(BASE), BASE, other)
    limit = FILES.size_bytes * 3 // 2
    first = await local(source, tmp_path, max_bytes=limit).directory(ID)
    for _ in range(2):
        adapters = local(source, tmp_path, max_bytes=limit)
        with pytest.raises(StoreFull, match="T2L_RESOLVER_CACHE_MAX_MIB"):
            await adapters.directory(other.adapter_id(BASE))
        assert await adapters.directory(ID) == first


async def test_object_store(tmp_path):
    """Adapters come from any fsspec filesystem; one whose weights aren't there yet is unknown."""
    url = f"memory://{tmp_path.name}"
    filesystem, root = fsspec.core.url_to_fs(url)
    ObjectBlobs(filesystem, root, tmp_path / "unused").put(ID, BASE, FILES)
    adapters = local(ObjectSource(url, {}), tmp_path)

    assert await adapters.directory(UNKNOWN) is None
    path = await adapters.directory(ID)
    assert (path / WEIGHTS_FILE).read_bytes() == FILES.weights

    filesystem.rm_file(f"{root}/{ID[4:6]}/{ID}/{WEIGHTS_FILE}")
    assert await local(ObjectSource(url, {}), tmp_path / "second").directory(ID) is None


def test_settings(monkeypatch, tmp_path):
    """The environment configures the plugin; without a source it is off."""
    assert plugin_settings.load() is None
    monkeypatch.setenv("T2L_RESOLVER_SOURCE", "s3://bucket/adapters")
    with pytest.raises(ConfigError, match="T2L_RESOLVER_CACHE_DIR: Field required"):
        plugin_settings.load()

    monkeypatch.setenv("T2L_RESOLVER_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("T2L_RESOLVER_CACHE_MAX_MIB", "none")
    with pytest.raises(ConfigError, match="T2L_RESOLVER_CACHE_MAX_MIB"):
        plugin_settings.load()

    monkeypatch.setenv("T2L_RESOLVER_CACHE_MAX_MIB", "12")
    monkeypatch.setenv("T2L_RESOLVER_SOURCE_OPTIONS", "{")
    with pytest.raises(ConfigError, match="source_options"):
        plugin_settings.load()

    monkeypatch.setenv("T2L_RESOLVER_SOURCE_OPTIONS", '{"anon": true}')
    settings = plugin_settings.load()
    assert (settings.kind, settings.cache_max_mib) == ("objects", 12)
    assert config.load()  # the router's variables begin alike, and it is not disturbed by these
    assert settings.source_options == {"anon": True}


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/mnt/t2l", "directory"),
        ("file:///mnt/t2l", "directory"),
        ("s3://bucket", "objects"),
        ("https://router.example/v1", "router"),
    ],
)
def test_kinds_of_source(source, kind):
    """The source's form says what it is."""
    settings = plugin_settings.ResolverSettings(source=source, cache_dir="/cache")
    assert settings.kind == kind
    if kind != "objects":  # which would look for credentials
        assert open_source(settings)


def test_off_without_a_source():
    """In an environment without settings registering does nothing; vLLM needn't be there."""
    vllm.register()


def test_entry_point():
    """vLLM finds the plugin by its entry point."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["vllm.general_plugins"].items()
    found = EntryPoint(name, value, "vllm.general_plugins")
    assert (found.name, found.load()) == (vllm.NAME, vllm.register)


def test_base_fingerprint(tmp_path):
    """A fingerprint stands for itself; a name that is no folder here needs a setting."""
    assert base_fingerprint(BASE, cache_dir=tmp_path) == BASE
    for name in ("nobody/nothing-here", "/no/such/folder"):
        with pytest.raises(ModelUnavailable, match="T2L_RESOLVER_BASE_MODEL"):
            base_fingerprint(name, cache_dir=tmp_path)


def test_light_imports():
    """The plugin's modules reach no database, no server and no model library."""
    program = (
        "import sys, integrations.vllm.adapters, integrations.vllm.base_model;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"sqlalchemy", "faiss", "fastapi", "torch", "transformers", "gguf", "uvicorn", "httpx"}
    assert not heavy & set(answer.stdout.split())
