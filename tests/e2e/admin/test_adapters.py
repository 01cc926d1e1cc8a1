"""The library over HTTP, by hand and by ``t2l adapters --server``."""

import click.testing
import httpx
import pytest

from adapters_store.errors import StoreUnavailable
from integrations.vllm.sources import RouterSource
from t2l_router.cli import adapters as noun
from t2l_router.cli.main import Program
from tests.adapter_files import BASE


def paged(ask, path, key):
    """All rows of a list, two a page."""
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor is not None else {})
        page = ask("GET", path, params=params).json()
        seen += [row[key] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return seen


def test_pages(ask, store, add):
    """The cursors lead through all adapters, changes and aliases once."""
    for number in range(5):
        record = add()
        store.aliases.set(f"page-{number}", record.id, tenant="acme")

    keys = paged(ask, "/adapters", "key")
    assert keys == sorted(keys, reverse=True)
    assert len(keys) == len(store.page(tenant="acme", limit=None))
    changes = paged(ask, "/history", "seq")
    assert changes == [entry.seq for entry in store.history(tenant="acme", limit=None)]
    assert paged(ask, "/aliases", "name") == [
        span.name for span in store.aliases.current(tenant="acme")
    ]


def test_life_of_an_adapter(ask, store, record):
    """What is done over HTTP is done in the library, and the key stands in the audit log."""
    path = f"/adapters/{record.id}"
    assert ask("GET", path).json()["id"] == record.id
    assert ask("PATCH", f"{path}/tags", json={"add": ["mail"]}).json()["tags"] == ["mail"]
    assert ask("PUT", f"{path}/pin", json={"pinned": True}).json()["pinned"]
    assert ask("DELETE", path).status_code == 409
    ask("PUT", f"{path}/pin", json={"pinned": False})
    assert ask("PUT", f"{path}/state", json={"state": "approved"}).json()["state"] == "approved"
    named = ask("PUT", "/aliases/mail", json={"ref": record.id})
    assert named.json()["adapter_id"] == record.id
    assert "mail" in [span["name"] for span in ask("GET", "/aliases").json()["data"]]
    assert ask("DELETE", path).json() == {"id": record.id, "ended_aliases": ["mail"]}
    assert ask("GET", path).status_code == 404
    assert ask("GET", path, params={"deleted": True}).json()["state"] == "deleted"
    assert ask("POST", f"{path}/undelete").json()["state"] == "approved"
    assert ask("GET", f"{path}/descriptions").json()[0]["text"] == record.description

    actors = {entry.actor for entry in store.history(record.id) if entry.action != "add.generated"}
    assert all(actor.startswith("key:") for actor in actors - {"t2l"})
    newest = ask("GET", "/history", params={"ref": record.id, "limit": 3}).json()["data"][0]
    assert newest["actor"] in actors


def test_export(ask, record, tmp_path):
    """An exported adapter is a zip file with PEFT's two files."""
    answer = ask("GET", f"/adapters/{record.id}/export")

    assert answer.headers["content-type"] == "application/zip"
    assert answer.content.startswith(b"PK")
    assert f"{record.id}.zip" in answer.headers["content-disposition"]


def test_engine_servers_pull(url, store, record, keys):
    """A key of scope pull fetches any tenant's adapter by its id, as the vLLM plugin does it."""
    _, key = store.keys.create("local", scopes=("pull",))
    source = RouterSource(url, key, timeout_s=30)

    found = source.fetch(record.id)
    assert found.manifest.base == BASE
    assert found.files.adapter_id(BASE) == record.id
    assert found.manifest.descriptions == ()  # a description can be personal data
    assert source.fetch("t2l-" + "0" * 32) is None

    store.set_state(record.id, "quarantined", tenant="acme")
    assert source.fetch(record.id) is None

    _, rival = store.keys.create("rival", scopes=("pull",))
    for wrong in (rival, keys["local"], keys["acme"], None):
        with pytest.raises(StoreUnavailable, match=r"answers 40[13]"):
            RouterSource(url, wrong, timeout_s=30).fetch(record.id)
    for path in ("/adapters", f"/adapters/{record.id}/export", f"/blobs/{record.id[:12]}"):
        answer = httpx.get(f"{url}/admin{path}", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code in (400, 403)


def test_router_out_of_reach():
    """A router that isn't there is an error that passes, not an unknown adapter."""
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        RouterSource("http://127.0.0.1:9", None, timeout_s=5).fetch("t2l-" + "0" * 32)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/descriptions", None),
        ("GET", "/export", None),
        ("DELETE", "", None),
        ("POST", "/undelete", None),
        ("PUT", "/state", {"state": "approved"}),
        ("PUT", "/pin", {"pinned": True}),
        ("PATCH", "/tags", {"add": ["x"]}),
    ],
)
def test_another_tenants_adapter(ask, record, method, path, body):
    """A tenant can't touch another's adapter, nor tell it from one that never was."""
    told = []
    for ref in (record.id, "t2l-" + "0" * 32):
        answer = ask(method, f"/adapters/{ref}{path}", tenant="rival", json=body)
        told.append((answer.status_code, answer.text.replace(ref, "REF")))

    assert told[0] == told[1]
    assert told[0][0] == 404
    posing = ask(method, f"/adapters/{record.id}{path}?tenant=acme", tenant="rival", json=body)
    assert posing.status_code == 403


def test_lists_are_the_tenants_own(ask, store, record):
    """Lists, history, keys and statistics show nothing of others; the operator sees all."""
    for path in ("/adapters", "/history", "/keys", "/aliases", "/usage", "/space"):
        theirs = ask("GET", path, tenant="rival").json()
        rows = theirs["data"] if isinstance(theirs, dict) else theirs
        assert {row["tenant"] for row in rows} <= {"rival", "shared"}
    assert ask("GET", "/stats", tenant="rival").json()["by_state"] == {}
    everybody = ask("GET", "/adapters", tenant="local", params={"limit": 200}).json()["data"]
    assert record.id in [row["id"] for row in everybody]


def test_only_the_operator_promotes(ask, record):
    """A tenant can't give its adapters to all; the operator can."""
    refused = ask("POST", f"/adapters/{record.id}/promote")
    done = ask("POST", f"/adapters/{record.id}/promote", tenant="local", params={"tenant": "acme"})

    assert refused.status_code == 403
    assert done.json()["tenant"] == "shared"


def test_keys(ask, url):
    """A tenant makes keys for itself only; a revoked one opens nothing."""
    made = ask("POST", "/keys", json={"name": "ci", "scopes": ["chat"]}).json()
    posing = ask("POST", "/keys", json={}, params={"tenant": "local"})
    foreign = ask("DELETE", f"/keys/{made['key']['id']}", tenant="rival")
    listed = ask("GET", "/keys")
    gone = ask("DELETE", f"/keys/{made['key']['id']}")

    assert made["key"]["tenant"] == "acme"
    assert (posing.status_code, foreign.status_code) == (403, 404)
    assert made["secret"] not in listed.text
    assert made["key"]["id"] in listed.text
    assert "hash" not in listed.text
    assert gone.json()["revoked_at"] is not None


def test_command_line(t2l, record, store):
    """The verbs do on a server what they do on a library, with the same output and codes."""
    acme = ("--tenant", "acme")
    assert t2l("show", record.id, *acme)["descriptions"] == [record.description]
    assert record.id in [row["id"] for row in t2l("list", *acme, "--all")]
    t2l("tag", record.id, "beta", *acme)
    t2l("alias", "set", "style", record.id, *acme)
    t2l("pin", record.id, *acme)
    assert "pinned" in t2l("rm", record.id, *acme, code=4)
    t2l("unpin", record.id, *acme)
    t2l("judge", record.id, "approved", *acme)
    assert t2l("stats", *acme)["adapters"] >= 1
    assert t2l("history", "style", *acme)[0]["action"].startswith("state")
    (removed,) = t2l("rm", "style", *acme)
    assert removed["id"] == record.id
    assert t2l("undelete", record.id, *acme)["state"] == "approved"
    assert t2l("alias", "history", "style", *acme)[0]["until"] is not None
    assert "no adapter" in t2l("show", "nobody", *acme, code=3)

    fresh = store.get(record.id, tenant="acme")
    assert (fresh.tags, fresh.aliases, fresh.pinned) == (("beta",), (), False)


def test_command_line_without_server():
    """A server that isn't there is exit code 6."""
    program = Program("t2l", context_settings={"help_option_names": ["-h", "--help"]})
    program.get_command = lambda *_: noun.command
    given = ["adapters", "list", "--server", "http://127.0.0.1:9"]
    result = click.testing.CliRunner().invoke(program, given)

    assert (result.exit_code, "no answer" in result.output) == (6, True)
