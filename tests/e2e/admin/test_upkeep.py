"""The library as a whole over HTTP: verify, prune, duplicates, space, quotas, limits."""

import pytest

from tests.adapter_files import BASE, make_files


def test_verify(ask, record):
    """The operator has everything re-hashed; a tenant may not."""
    refused = ask("POST", "/verify")
    report = ask("POST", "/verify", tenant="local").json()

    assert refused.status_code == 403
    assert report["adapters"] >= 1
    assert report["audit_entries"] >= 1
    assert report["problems"] == []


def test_prune(ask, store, add):
    """Told first, done with *apply*; a tenant prunes its own, and strays are the operator's."""
    mine, theirs = add(), add(tenant="rival")
    store.tag(mine.id, tenant="acme", add=["old"])
    store.tag(theirs.id, tenant="rival", add=["old"])
    body = {"filters": ["tag=old"]}
    told = ask("POST", "/prune", json=body).json()
    still = store.get(mine.id, tenant="acme")
    done = ask("POST", "/prune", json=body | {"apply": True, "purge_after_s": 0}).json()

    assert [step["subject"] for step in told["steps"]] == [mine.id]
    assert (told["applied"], still.state) == (False, "generated")
    assert (done["applied"], done["steps"][0]["action"]) == (True, "delete")
    assert store.get(mine.id, tenant="acme", deleted=True).state == "deleted"
    assert store.get(theirs.id, tenant="rival").state == "generated"
    posing = ask("POST", "/prune", json=body, params={"tenant": "rival"})
    assert posing.status_code == 403


@pytest.fixture(name="twins")
def _twins(store):
    """Two adapters of acme with equal weights but for one's scaling."""
    files = make_files(9_001)
    weaker = make_files(9_001, config=files.config.replace(b'"lora_alpha": 4', b'"lora_alpha": 3'))
    return [store.add(f, tenant="acme", base=BASE) for f in (files, weaker)]


def test_duplicates(ask, store, twins):
    """Adapters that do the same are found and merged; aliases move to the kept one."""
    keep, other = (record.id for record in twins)
    store.aliases.set("twin", other, tenant="acme")
    (cluster,) = ask("GET", "/duplicates", params={"threshold": 0.99}).json()
    merged = ask("POST", f"/adapters/{keep}/merge", json={"others": [other]})

    assert {cluster["keep"]["id"], cluster["merge"][0]["id"]} == {keep, other}
    assert merged.json()["aliases"] == ["twin"]
    assert store.get("twin", tenant="acme").id == keep
    assert ask("GET", f"/adapters/{other}").status_code == 404
    assert ask("GET", "/duplicates", params={"threshold": 0.99}).json() == []


def test_merge_with_itself(ask, record, add):
    """An adapter can't be merged into itself, nor another tenant's into one's own."""
    foreign = add(tenant="rival")
    itself = ask("POST", f"/adapters/{record.id}/merge", json={"others": [record.id]})
    theirs = ask("POST", f"/adapters/{record.id}/merge", json={"others": [foreign.id]})

    assert (itself.status_code, theirs.status_code) == (409, 404)
    assert ask("GET", f"/adapters/{record.id}").is_success


def test_space(ask, record):
    """A tenant sees its own space, the operator everybody's."""
    assert [row["tenant"] for row in ask("GET", "/space").json()] == ["acme"]
    tenants = [row["tenant"] for row in ask("GET", "/space", tenant="local").json()]
    assert "acme" in tenants
    assert tenants == sorted(tenants)


@pytest.mark.parametrize(
    ("path", "body", "within"),
    [
        ("/quota", {"max_adapters": 10_000}, "quota"),
        ("/limits", {"tokens_per_day": 10**9}, None),
    ],
)
def test_only_the_operator_limits(ask, path, body, within):
    """A tenant reads its limits; only the operator sets them."""
    refused = ask("PUT", path, json=body)
    wrong = ask("PUT", path, tenant="local", params={"tenant": "acme"}, json={"max_adapters": -1})
    done = ask("PUT", path, tenant="local", params={"tenant": "acme"}, json=body)
    seen = ask("GET", path).json()

    assert (refused.status_code, wrong.status_code, done.status_code) == (403, 400, 200)
    assert body.items() <= (seen[within] if within else seen).items()


def test_command_line(t2l, ask, keys, monkeypatch, add):
    """The verbs for the library as a whole work on a server, too."""
    record = add()
    t2l("tag", record.id, "stale")
    assert "only the operator" in t2l("verify", code=1)
    (step,) = t2l("prune", "-f", "tag=stale", "-y")
    assert (step["subject"], step["action"]) == (record.id, "delete")
    assert t2l("undelete", record.id)["id"] == record.id
    assert [row["tenant"] for row in t2l("df")] == ["acme"]
    assert t2l("dedupe") == []
    assert t2l("quota")["max_bytes"] is None
    monkeypatch.setenv("T2L_API_KEY", keys["local"])
    assert t2l("verify") == []
    assert t2l("quota", "-t", "rival", "--max-adapters", "7")["max_adapters"] == 7
    assert ask("GET", "/quota", tenant="rival").json()["quota"]["max_adapters"] == 7


def test_history_of_an_alias(t2l, record):
    """What an alias named at a time is found on a server, too."""
    t2l("alias", "set", "then", record.id)
    (span,) = t2l("alias", "history", "then", "--at", "2100-01-01")
    assert span["adapter_id"] == record.id
    assert "named nothing" in t2l("alias", "history", "then", "--at", "2000-01-01", code=3)
