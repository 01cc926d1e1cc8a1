"""docs/security.md: each line names a test that there is; and hostile text in every field."""

import json
import re

import pytest

from tests.conformance.inprocess import Asked, Attack, application
from tests.e2e.program import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
PROOF = re.compile(r"`(?:([\w/]+\.py))?(?:::(\w+))?`")
MARKER = "t2l-hostile-marker"
HOSTILE = (
    "../../../../etc/passwd",
    f"a\r\nSet-Cookie: {MARKER}=1",
    "\0",
    "\ud800",
    "%2e%2e%2f%0d%0a",
    "' OR 1=1 --",
    "{{7*7}}${7*7}",
    "a" * 5_000,
)


def proofs() -> list[tuple[str, str | None]]:
    """Every file and test that the threats' third column names."""
    found = []
    for line in PAGE.splitlines():
        if not line.startswith("| ") or line.count("|") != 4:
            continue
        here = ""
        for path, test in PROOF.findall(line.rsplit("|", 2)[1]):
            here = path or here
            found.append((here, test or None))
    return found


def test_every_threat_has_a_proof():
    """No line of the table of threats goes without a test or a benchmark."""
    rows = PAGE.partition("## Threats")[2].partition("## Not defended")[0].splitlines()
    threats = [row for row in rows if row.startswith("| ")][1:]
    assert len(threats) > 25
    for row in threats:
        assert "`" in row.rsplit("|", 2)[1], row


@pytest.mark.parametrize(("path", "test"), proofs())
def test_proof_exists(path, test):
    """A test that the page names is there."""
    text = (ROOT / "tests" / path).read_text()
    assert test is None or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (path, test)


@pytest.fixture(scope="module", name="asked")
def _asked(tmp_path_factory):
    with application(tmp_path_factory.mktemp("hostile")) as asked:
        yield asked


def resolved(schema: dict, document: dict) -> dict:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def string_fields(schema: dict, document: dict) -> list[str]:
    """Names of an object's fields that take a text, at its first level."""
    found = []
    for name, field in resolved(schema, document).get("properties", {}).items():
        kinds = [resolved(kind, document) for kind in field.get("anyOf", [field])]
        if any(kind.get("type", "string") == "string" for kind in kinds):
            found.append(name)
    return found


def attacks(document: dict):
    """Hostile text in each string parameter and body field of each operation."""
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path == "/admin/keys/{key_id}":
                continue  # the key that is in use would end
            filled = re.sub(r"\{\w+\}", "x", path)
            for text in HOSTILE:
                quoted = "".join(f"%{byte:02x}" for byte in text.encode(errors="replace"))[:3_000]
                if "{" in path:
                    yield Attack(method.upper(), re.sub(r"\{\w+\}", quoted, path), b"{}")
                for parameter in operation.get("parameters", ()):
                    if parameter["in"] == "query":
                        query = f"{filled}?{parameter['name']}={quoted}"
                        yield Attack(method.upper(), query, b"{}")
                body = operation.get("requestBody", {}).get("content", {})
                schema = body.get("application/json", {}).get("schema", {})
                for name in string_fields(schema, document):
                    content = json.dumps(chat | {name: text}).encode()
                    yield (
                        Attack("POST", path, content)
                        if path.startswith("/v1")
                        else Attack(method.upper(), filled, json.dumps({name: text}).encode())
                    )


def test_hostile_text_in_every_field(asked: Asked):
    """Nowhere does a text become a path, a header line or a server error."""
    document = json.loads(asked.ask(Attack("GET", "/openapi.json", b"")).body)
    json_type = {"content-type": b"application/json"}
    n = 0
    for attack in attacks(document):
        answer = asked.ask(Attack(attack.method, attack.path, attack.body, json_type))
        n += 1
        assert answer.error is None, (attack, answer.error)
        assert 200 <= answer.status < 500, (attack, answer.status, answer.body[:300])
        assert b"root:" not in answer.body, attack
        for name, value in answer.headers.items():
            assert name != b"set-cookie", attack
            assert not {*b"\r\n\0"} & {*value}, (attack, answer.headers)
    assert n > 700


@pytest.mark.parametrize("header", ["x-t2l-description", "x-t2l-session", "x-request-id"])
def test_hostile_headers(asked: Asked, header):
    """Nor from a header, percent-encoded or not."""
    body = b'{"model":"echo","messages":[{"role":"user","content":"hi"}]}'
    for text in (*HOSTILE[:2], "%0d%0aSet-Cookie:%20x=1", "..%2f..%2fetc%2fpasswd", "\xff\xfe"):
        value = re.sub("[\r\n\0]", "", text).encode("latin-1")
        headers = {"content-type": b"application/json", header: value}
        answer = asked.ask(Attack("POST", "/v1/chat/completions", body, headers))

        assert answer.error is None
        assert 200 <= answer.status < 500
        assert b"set-cookie" not in answer.headers
        assert not any({*b"\r\n\0"} & {*value} for value in answer.headers.values())
