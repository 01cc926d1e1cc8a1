"""Adapters come and go over HTTP: create, import, describe, search, export."""

import io
import json
import zipfile

import httpx
import pytest

from adapters_store import transfer
from adapters_store.blobs import MANIFEST_FILE
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE
from t2l_router.engines.echo_adapters import BASE, EchoEncoder, EchoGenerator
from t2l_router.remote import RemoteStore
from t2l_router.remote.connection import Connection
from tests.adapter_files import make_files
from tests.e2e.admin.conftest import MAX_IMPORT_BYTES

ZIP = {"content-type": "application/zip"}


def echo_files(text):
    """The two PEFT files of the adapter that the echo engine writes for a description."""
    (adapter,) = EchoGenerator().generate(EchoEncoder().embed([text]))
    return {CONFIG_FILE: adapter.files.config, WEIGHTS_FILE: adapter.files.weights}


def manifest(*texts, base=BASE):
    return json.dumps({"base_fingerprint": base, "descriptions": texts}).encode()


def upload(ask, contents, tenant="acme", **options):
    content = contents if isinstance(contents, bytes) else transfer.zipped(contents)
    options = {"headers": ZIP} | options
    return ask("POST", "/adapters/import", tenant=tenant, content=content, **options)


def test_export_and_import(ask, store):
    """What one tenant exports another imports: the same adapter, found by its descriptions."""
    made = ask("POST", "/adapters", json={"description": "Sort my mail"}).json()
    exported = ask("GET", f"/adapters/{made['id']}/export")
    found = upload(ask, exported.content, tenant="rival")

    assert exported.headers["content-type"] == "application/zip"
    assert f"{made['id']}.zip" in exported.headers["content-disposition"]
    assert found.status_code == 200, found.text
    record = found.json()
    assert (record["id"], record["tenant"]) == (made["id"], "rival")
    assert record["lineage"]["origin"] == "imported"
    assert record["lineage"]["source"].startswith("upload:")
    hits = ask("POST", "/search", tenant="rival", json={"text": "Sort my mail"}).json()
    assert (hits[0]["adapter"]["id"], hits[0]["description"]) == (made["id"], "Sort my mail")
    assert hits[0]["score"] == pytest.approx(1)
    (added,) = [e for e in store.history(tenant="rival") if e.action == "add.imported"]
    assert added.actor.startswith("key:")


def test_create_again(ask):
    """A description that has its adapter gets that one."""
    made = [ask("POST", "/adapters", json={"description": "Rhyme"}).json() for _ in range(2)]

    assert made[0]["id"] == made[1]["id"]
    assert made[0]["description"] == "Rhyme"


SHOWN = [{"input": "sun", "output": "SUN"}]


@pytest.mark.parametrize("description", [None, "Say it louder"])
def test_create_from_examples(ask, description):
    """Examples make an adapter of their own, which export and import know by them again."""
    body = {"examples": SHOWN} | ({"description": description} if description else {})
    made = [ask("POST", "/adapters", json=body).json() for _ in range(2)]
    path = f"/adapters/{made[0]['id']}"
    exported = ask("GET", f"{path}/export").content
    ask("DELETE", path)
    upload(ask, exported)
    texts = ask("GET", f"{path}/descriptions").json()

    assert made[0]["id"] == made[1]["id"]
    assert "[1 example, " in made[0]["description"]
    assert [(text["text"], text["source"]) for text in texts] == [
        (made[0]["description"], "examples")
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "description"),
        ({"description": None}, "description"),
        ({"examples": []}, "examples"),
        ({"examples": [{"input": "x", "output": ""}]}, "examples[0].output"),
        ({"examples": [{"input": "x"}]}, "examples[0].output"),
    ],
)
def test_create_from_nothing(ask, body, param):
    """What tells no task is a 400 that names the field."""
    answer = ask("POST", "/adapters", json=body)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_describe(ask):
    """An adapter that came without a description is found as soon as it has one."""
    record = upload(ask, echo_files("hidden")).json()
    before = ask("POST", "/search", json={"text": "Find me"}).json()
    told = ask("POST", f"/adapters/{record['id']}/descriptions", json={"description": "Find me"})
    after = ask("POST", "/search", json={"text": "Find me", "limit": 1}).json()

    assert record["description"] == ""
    assert record["id"] not in [hit["adapter"]["id"] for hit in before]
    assert told.json()["description"] == "Find me"
    assert after[0]["adapter"]["id"] == record["id"]


def bomb(name, size):
    """A zip file that is small, and a member that is not."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * size)
    return file.getvalue()


def crowded(n):
    """A zip file with so many members."""
    return transfer.zipped({f"{i}.txt": b"" for i in range(n)})


WRONG = {
    "empty": (b"", "no zip file"),
    "no zip": (b"PK" + b"x" * 100, "no zip file"),
    "pickle": ({**echo_files("a"), "adapter_model.bin": b"x"}, "may run code"),
    "weights missing": ({CONFIG_FILE: b"{}"}, "is missing"),
    "climbing": ({"../" + CONFIG_FILE: b"{}", WEIGHTS_FILE: b""}, "points outside"),
    "absolute": ({"/etc/" + CONFIG_FILE: b"{}"}, "points outside"),
    "no safetensors": ({CONFIG_FILE: b"{}", WEIGHTS_FILE: b"x" * 100}, "no safetensors"),
    "deep config": ({**echo_files("a"), CONFIG_FILE: b"[" * 100_000}, "no JSON"),
    "foreign modules": (
        dict(zip((CONFIG_FILE, WEIGHTS_FILE), vars(make_files()).values(), strict=False)),
        "it is for another model",
    ),
    "foreign base": (
        {**echo_files("a"), MANIFEST_FILE: manifest(base="f" * 64)},
        "ffffffffffffffff",
    ),
    "bad description": ({**echo_files("a"), MANIFEST_FILE: manifest("a\0b")}, "description"),
    "a bomb": (bomb(WEIGHTS_FILE, 2 * MAX_IMPORT_BYTES), "at most"),
    "a crowd": (crowded(20_000), "too many entries"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_refused(ask, store, case):
    """What is no sound adapter for this base model is a 400 that says why, and adds nothing."""
    contents, says = WRONG[case]
    before = len(store.page(tenant="acme", limit=None))
    answer = upload(ask, contents)

    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]
    assert len(store.page(tenant="acme", limit=None)) == before


def test_wrong_type_or_size(ask):
    """Another content type is a 415; a file above the limit is refused before it is read."""
    typed = upload(ask, b"{}", headers={"content-type": "application/json"})
    sized = upload(ask, b"x" * (MAX_IMPORT_BYTES + 1))
    within = upload(ask, b"x" * MAX_IMPORT_BYTES)
    json_type = {"content-type": "application/json"}
    others = ask("POST", "/adapters", content=b"x" * MAX_IMPORT_BYTES, headers=json_type)

    assert typed.status_code == 415
    assert (sized.status_code, sized.json()["error"]["code"]) == (413, "request_too_large")
    assert (within.status_code, others.status_code) == (400, 413)


def test_another_tenants(ask):
    """A tenant can neither import for another nor search or describe what is another's."""
    record = ask("POST", "/adapters", json={"description": "Private matters"}).json()
    posing = upload(ask, echo_files("x"), tenant="rival", params={"tenant": "acme"})
    hits = ask("POST", "/search", tenant="rival", json={"text": "Private matters"}).json()
    path = f"/adapters/{record['id']}/descriptions"
    told = ask("POST", path, tenant="rival", json={"description": "Mine now"})

    assert (posing.status_code, told.status_code) == (403, 404)
    assert record["id"] not in [hit["adapter"]["id"] for hit in hits]


def test_command_line(t2l, tmp_path):
    """create, search, export, import, push and pull work on a server without any model here."""
    made = t2l("create", "Translate to Welsh", "--alias", "welsh", "--tag", "cy")
    (hit, *_) = t2l("search", "Translate to Welsh", "-n", "1")
    exported = t2l("export", "welsh", "-o", str(tmp_path / "a.zip"))
    pushed = t2l("push", "welsh", str(tmp_path / "pushed"))
    again = t2l("import", str(tmp_path / "a.zip"), "-d", "Cymraeg", "--alias", "cymraeg")
    pulled = t2l("pull", str(tmp_path / "pushed"))
    file = tmp_path / "examples.jsonl"
    file.write_text('{"input": "bore", "output": "bore da"}')
    shown = t2l("create", "--examples", str(file))
    t2l("export", shown["id"], "-o", str(tmp_path / "shown.zip"))
    kept = t2l("import", str(tmp_path / "shown.zip"))

    assert shown["description"].startswith("[1 example, ")
    assert (kept["id"], kept["n_descriptions"]) == (shown["id"], 1)
    assert (made["tenant"], made["aliases"], made["tags"]) == ("acme", ["welsh"], ["cy"])
    assert hit["id"] == exported["id"] == pushed["id"] == again["id"] == pulled["id"] == made["id"]
    assert WEIGHTS_FILE in exported["files"]
    assert again["aliases"] == ["cymraeg", "welsh"]
    assert t2l("search", "Cymraeg", "-n", "1")[0]["id"] == made["id"]
    assert "does not exist" in t2l("import", str(tmp_path / "none.zip"), code=2)
    foreign, _ = WRONG["foreign base"]
    (tmp_path / "foreign.zip").write_bytes(transfer.zipped(foreign))
    assert "ffffffffffffffff" in t2l("import", str(tmp_path / "foreign.zip"), code=5)


def test_export_of_a_hostile_server(tmp_path, monkeypatch):
    """What a server names besides the files of an adapter is written nowhere."""
    contents = transfer.zipped({**echo_files("x"), "../../evil": b"x", "/tmp/evil": b"x"})
    remote = RemoteStore("http://nowhere", None)
    monkeypatch.setattr(Connection, "send", lambda *_, **__: httpx.Response(200, content=contents))
    assert remote.export("x", tenant="acme").keys() == echo_files("x").keys()
