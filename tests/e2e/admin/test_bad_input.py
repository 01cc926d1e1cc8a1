"""What can't be right at the admin API is refused in OpenAI's shape."""

import httpx
import pytest


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("GET", "/adapters?limit=0", None, "limit"),
        ("GET", "/adapters?limit=x", None, "limit"),
        ("GET", "/adapters?cursor=99999999999999999999999", None, "cursor"),
        ("GET", "/adapters?filter=color%3Dred", None, None),
        ("GET", "/adapters?filter=a%00b", None, "filter[0]"),
        ("GET", "/adapters?tenant=a%00b", None, "tenant"),
        ("GET", "/adapters/%00", None, "ref"),
        ("GET", "/adapters/a%0d%0ab", None, "ref"),
        ("GET", "/adapters/%2e%2e%2fetc%2fpasswd", None, None),
        ("PUT", "/adapters/x/state", {"state": "deleted"}, "state"),
        ("PUT", "/adapters/x/state", {}, "state"),
        ("PUT", "/adapters/x/pin", {"pinned": True, "extra": 1}, "extra"),
        ("PATCH", "/adapters/x/tags", {"add": ["../x"]}, "add[0]"),
        ("PUT", "/aliases/UPPER", {"ref": "x"}, "name"),
        ("PUT", "/aliases/ok", {"ref": "../../etc/passwd"}, "ref"),
        ("POST", "/keys", {"scopes": ["root"]}, "scopes[0]"),
        ("POST", "/keys", {"name": "x" * 65}, "name"),
        ("POST", "/keys", {"expires_at": "yesterday"}, "expires_at"),
    ],
)
def test_bad_input(ask, method, path, body, param):
    """What can't be right is refused in OpenAI's shape, and names its field."""
    answer = ask(method, path, json=body)

    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if param is not None:
        assert (answer.status_code, error["param"]) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"[]", b'"x"'])
def test_bad_body(url, keys, record, body):
    """A body that is no JSON object is a 400."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {keys['acme']}"}
    path = f"{url}/admin/adapters/{record.id}/pin"
    answer = httpx.put(path, content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/prune", {"apply": 1}, "apply"),
        ("POST", "/prune", {"apply": "true"}, "apply"),
        ("POST", "/prune", {"purge_after_s": False}, "purge_after_s"),
        ("PUT", "/limits", {"tokens_per_day": True}, "tokens_per_day"),
        ("PUT", "/quota", {"max_adapters": "7"}, "max_adapters"),
        ("PUT", "/adapters/x/pin", {"pinned": "no"}, "pinned"),
        ("POST", "/search", {"text": "x", "limit": "3"}, "limit"),
    ],
)
def test_no_guessing(ask, method, path, body, param):
    """A value of another type is refused: what removes things or sets limits is not guessed."""
    answer = ask(method, path, tenant="local", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
