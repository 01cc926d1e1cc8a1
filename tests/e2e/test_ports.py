"""A port of its own for the admin API and metrics."""

import http.client
import json
import re

import pytest

from tests.e2e.program import serving, t2l


@pytest.fixture(scope="module", name="urls")
def _urls(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("ports")
    with serving("--engine", "echo", "--admin-port", "0", cwd=cwd) as program:
        admin = re.search(r"http://\S+", program.process.stderr.readline())[0]
        program.wait_ready()
        yield {"main": program.url, "admin": admin}


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("/v1/models", {"main"}),
        ("/v1/models/echo", {"main"}),
        ("/openapi.json", {"main"}),
        ("/admin/adapters", {"admin"}),
        ("/%61dmin/adapters", {"admin"}),
        ("/metrics", {"admin"}),
        ("/health/live", {"main", "admin"}),
        ("/health/ready", {"main", "admin"}),
        ("/admin/../v1/models", set()),
        ("//admin/adapters", set()),
    ],
)
def test_where(urls, path, at):
    """Each path is served at its port only, whatever port the client claims to ask."""
    for name, url in urls.items():
        other = urls["main" if name == "admin" else "admin"].removeprefix("http://")
        # Not httpx, which would tidy the path up.
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("GET", path, headers={"host": other})
        answer = connection.getresponse()
        body = json.loads(answer.read()) if answer.status != 200 else None
        connection.close()
        assert (answer.status == 200) == (name in at), (name, answer.status)
        if name not in at:
            assert body["error"]["code"] == "unknown_url"


def test_command_line(urls, tmp_path):
    """``--server`` takes the admin port's address."""
    found = t2l("adapters", "list", "--server", urls["admin"], "--format", "json", cwd=tmp_path)
    assert json.loads(found.stdout) == []


def test_port_in_use(urls, tmp_path):
    """An admin port in use is one line and exit code 2."""
    port = urls["admin"].rpartition(":")[2]
    result = t2l("serve", "--engine", "echo", "--port", "0", "--admin-port", port, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "--admin-port" in result.stderr
