"""Foreign adapters: what is refused, and that nothing changes then."""

import http.server
import json
import os
import stat
import threading
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from adapters_store import AdapterFiles, imports, transfer
from adapters_store.errors import InvalidImport, StoreUnavailable
from adapters_store.imports import read_path
from tests.adapter_files import BASE, make_config, make_files, make_tensors


def write(directory, files=None, **others):
    """Write an adapter directory, with other files beside."""
    directory.mkdir()
    files = files or make_files()
    (directory / "adapter_config.json").write_bytes(files.config)
    (directory / "adapter_model.safetensors").write_bytes(files.weights)
    for name, data in others.items():
        (directory / name).write_bytes(data)
    return directory


def zipped(path, entries):
    """Write a zip file of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def sound():
    """The entries of a sound zip file."""
    files = make_files()
    return [("adapter_config.json", files.config), ("adapter_model.safetensors", files.weights)]


def test_directory(tmp_path):
    """A PEFT directory is read; other harmless files are passed over."""
    foreign = read_path(write(tmp_path / "a", **{"README.md": b"hello"}))

    assert foreign.files == make_files().canonical()
    assert foreign.manifest is None


def test_zip(tmp_path):
    """A zip file is read, also with everything in one folder."""
    entries = [(f"my-adapter/{name}", data) for name, data in sound()]

    assert read_path(zipped(tmp_path / "a.zip", entries)).files == make_files().canonical()


def test_config_is_written_anew():
    """Settings that could act when PEFT reads them never reach the library."""
    config = json.loads(
        make_config(auto_mapping={"parent_library": "os"}, megatron_core="os", revision="x")
    )

    written = json.loads(make_files(config=json.dumps(config).encode()).canonical().config)

    assert {"megatron_core", "revision", "auto_mapping"}.isdisjoint(written)
    assert (written["r"], written["lora_alpha"], written["use_rslora"]) == (2, 4.0, True)


@pytest.mark.parametrize(
    "name", ["../adapter_config.json", "/etc/x", "a/../../x", "..\\x", "C:\\x", "a\\b"]
)
def test_zip_slip(tmp_path, name):
    """An entry that points outside makes the zip file unacceptable."""
    with pytest.raises(InvalidImport, match="points outside"):
        read_path(zipped(tmp_path / "a.zip", [*sound(), (name, b"x")]))


def test_zip_link(tmp_path):
    """A link inside a zip file is refused."""
    link = zipfile.ZipInfo("t2l.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(InvalidImport, match="link"):
        read_path(zipped(tmp_path / "a.zip", [*sound(), (link, b"/etc/passwd")]))


@pytest.mark.parametrize("name", ["adapter_model.bin", "x.pt", "deep/y.PKL", "z.ckpt"])
def test_pickles(tmp_path, name):
    """A pickle beside the weights makes the source unacceptable."""
    with pytest.raises(InvalidImport, match="may run code"):
        read_path(zipped(tmp_path / "a.zip", [*sound(), (name, b"x")]))


def test_pickle_as_safetensors(tmp_path):
    """A pickle under the name of safetensors is not read."""
    files = AdapterFiles(make_config(), b"\x80\x04\x95" + b"x" * 100)

    with pytest.raises(InvalidImport, match="no safetensors file"):
        read_path(write(tmp_path / "a", files))


def test_directory_link(tmp_path):
    """A link in a directory is refused, whatever it points to."""
    directory = write(tmp_path / "a")
    (directory / "t2l.json").symlink_to("/etc/passwd")

    with pytest.raises(InvalidImport, match="is a link"):
        read_path(directory)


def test_pipe(tmp_path):
    """Something that is no regular file is refused without waiting for it."""
    directory = write(tmp_path / "a")
    os.mkfifo(directory / "t2l.json")

    with pytest.raises(InvalidImport, match="no regular file"):
        read_path(directory)


def test_size_is_capped_before_reading(tmp_path, monkeypatch):
    """A file over its limit is refused by its size alone, in directories and zip files."""
    monkeypatch.setitem(imports.LIMITS, "adapter_model.safetensors", 100)
    directory = write(tmp_path / "a")

    for source in (directory, zipped(tmp_path / "a.zip", sound())):
        with pytest.raises(InvalidImport, match="at most 100 are accepted"):
            read_path(source)


def test_many_entries(tmp_path):
    """A zip file of thousands of entries is refused."""
    entries = [(f"{i}.txt", b"") for i in range(1001)]

    with pytest.raises(InvalidImport, match="1001 entries"):
        read_path(zipped(tmp_path / "a.zip", entries))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"\x00" * 1000])
def test_no_zip(tmp_path, data):
    """A file that is no zip file is refused."""
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(InvalidImport, match="zip"):
        read_path(tmp_path / "a.zip")


def test_missing(tmp_path):
    """A path that isn't there, or holds no adapter, is refused."""
    with pytest.raises(InvalidImport, match="no such"):
        read_path(tmp_path / "nowhere")
    with pytest.raises(InvalidImport, match="is missing"):
        read_path(tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"r": 0},
        {"r": "2"},
        {"r": True},
        {"r": 100_000},
        {"lora_alpha": -1},
        {"lora_alpha": "16"},
        {"base_model_name_or_path": "a\nb"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_config(overrides):
    """A config that we can't serve, or that is nonsense, is refused."""
    with pytest.raises(InvalidImport):
        assert make_files(config=make_config(**overrides)).settings


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_config_is_no_json(data):
    """A config that is no JSON object is refused, however deep."""
    with pytest.raises(InvalidImport):
        assert AdapterFiles(data, make_files().weights).settings


def tensors_with(name, tensor):
    """The weights with one tensor replaced or added."""
    return AdapterFiles(make_config(), save(make_tensors() | {name: tensor}))


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.embed_tokens.weight", np.zeros((2, 2), np.float32)),
        (f"{Q}.lora_embedding_A", np.zeros((2, 8), np.float32)),
        (f"{Q}.lora_A.weight", np.zeros((3, 8), np.float32)),
        (f"{Q}.lora_A.weight", np.zeros(16, np.float32)),
        (f"{Q}.lora_B.weight", np.zeros((6, 3), np.float32)),
        (f"{Q}.lora_A.weight", np.zeros((2, 8), np.float64)),
        (f"{Q}.lora_A.weight", np.full((2, 8), np.nan, np.float32)),
        (f"{Q}.lora_A.weight", np.full((2, 8), np.inf, np.float32)),
        ("base_model.model.x.k_proj.lora_A.weight", np.zeros((2, 8), np.float32)),
    ],
    ids=["foreign", "embedding", "rank", "flat", "b-rank", "float64", "nan", "inf", "half a pair"],
)
def test_tensors(store, name, tensor):
    """Tensors of wrong name, shape, dtype or value are refused, and the library stays empty."""
    with pytest.raises(InvalidImport):
        store.add(tensors_with(name, tensor), tenant="acme", base=BASE)

    assert store.page() == []
    assert list(store.ledger.blobs.published()) == []


def test_wrong_base(store):
    """An adapter whose shapes don't fit the base model is refused, naming the module."""
    q_and_v = {f"model.layers.0.self_attn.{m}_proj": (8, 6) for m in "qv"}

    store.add(make_files(), tenant="acme", base=BASE, expected_shapes=q_and_v)
    shapes = q_and_v | {"model.layers.0.self_attn.v_proj": (8, 7)}
    with pytest.raises(InvalidImport, match="maps 8 to 6 features"):
        store.add(make_files(1), tenant="acme", base=BASE, expected_shapes=shapes)
    with pytest.raises(InvalidImport, match=r"layers\.1"):
        store.add(make_files(1, layers=2), tenant="acme", base=BASE, expected_shapes=q_and_v)


def header(entries, body=b""):
    """A safetensors file with any header."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"\xff" * 8,
        header({})[:9],
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"x" * 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"x" * 4),
        header({"a": {"dtype": "F32", "shape": "no", "data_offsets": [0, 4]}}, b"x" * 4),
        header({"a": 1}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"x" * 9),
    ],
)
def test_safetensors(weights):
    """A broken, truncated, overlapping or padded safetensors file is refused."""
    with pytest.raises(InvalidImport):
        assert AdapterFiles(make_config(), weights).modules


class Refusing(http.server.BaseHTTPRequestHandler):
    """Has nothing; below ``/closed`` it doesn't even say so, below ``/endless`` not how much."""

    def do_GET(self):
        status = 403 if self.path.startswith("/closed") else 404
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
            return
        self.send_error(status)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_pull_tells_what_is_wrong_with_the_server():
    """A server that can't be reached, or refuses, is not an adapter without a config."""
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(InvalidImport, match=r"adapter_config\.json is missing"):
            transfer.pull(f"{url}/empty", options={})
        with pytest.raises(StoreUnavailable, match="/closed answers 403 Forbidden"):
            transfer.pull(f"{url}/closed", options={})
        with pytest.raises(InvalidImport, match=r"how large adapter_config\.json is"):
            transfer.pull(f"{url}/endless", options={})
        server.shutdown()

    with pytest.raises(StoreUnavailable, match=f"{url}/gone can't be reached: Cannot connect"):
        transfer.pull(f"{url}/gone", options={})
