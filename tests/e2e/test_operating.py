"""Running the server: metrics, logs, readiness with the library, reload, several processes."""

import json
import signal
import time

import httpx
import pytest

from tests.e2e.program import serving, t2l

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "my-secret-words"}]}
ECHO = ("--engine", "echo")


def chat(program, **options) -> httpx.Response:
    return httpx.post(f"{program.url}/v1/chat/completions", json=CHAT, timeout=30, **options)


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def test_metrics_and_logs(tmp_path):
    """A request shows in the metrics and in the log, and none of its words does."""
    with serving(*ECHO, "--log-format", "json", cwd=tmp_path) as program:
        program.wait_ready()
        answer = chat(
            program, headers={"x-request-id": "mine", "x-t2l-description": "My secret task"}
        )
        shown = httpx.get(f"{program.url}/metrics").text
        program.process.send_signal(signal.SIGTERM)
        program.process.wait(10)
        lines = [json.loads(line) for line in program.process.stderr.read().splitlines()]

    assert answer.is_success
    assert (
        't2l_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in shown
    )
    assert "t2l_engine_resident_adapters" in shown
    (line,) = [line for line in lines if line.get("request_id") == "mine"]
    assert (line["status"], line["decision"], line["tenant"]) == (200, "generated", "local")
    assert "secret" not in shown + json.dumps(lines)


def test_sighup(tmp_path):
    """SIGHUP takes over new limits while the server runs, and names what needs a restart."""
    settings = tmp_path / "t2l.toml"
    with serving(*ECHO, cwd=tmp_path) as program:
        program.wait_ready()
        before = chat(program)
        settings.write_text("requests_per_minute = 1\nmax_waiting = 3\n")
        program.process.send_signal(signal.SIGHUP)
        wait_for(lambda: chat(program).status_code == 429)
        limited = chat(program)
        settings.write_text("requests_per_minute = 'many'\n")
        program.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        program.process.send_signal(signal.SIGTERM)
        program.process.wait(10)
        said = program.process.stderr.read()

    assert before.status_code == 200
    assert "x-ratelimit-limit-requests" not in before.headers
    assert limited.json()["error"]["code"] == "rate_limit_exceeded"
    assert limited.headers["x-ratelimit-limit-requests"] == "1"
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    assert "reloaded: requests_per_minute" in said
    assert "after a restart: max_waiting" in said
    assert "nothing is reloaded" in said
    assert said.index("stopping; running answers get up to 30 s") < said.index("stopped\n")


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Two servers share one library: keys, their end, and the budget count in both."""
    made = t2l("keys", "create", "acme", "--format", "json", cwd=tmp_path)
    key = json.loads(made.stdout)
    bearer = {"authorization": f"Bearer {key['key']}"}
    with serving(*ECHO, cwd=tmp_path) as one, serving(*ECHO, cwd=tmp_path) as two:
        for program in (one, two):
            program.wait_ready()
        inside = [chat(program, headers=bearer).status_code for program in (one, two)]
        outside = [chat(program).status_code for program in (one, two)]
        t2l("keys", "limits", "acme", "--tokens-per-day", "1", cwd=tmp_path)
        for program in (one, two):
            wait_for(lambda p=program: chat(p, headers=bearer).status_code == 429, 20)
        spent = chat(two, headers=bearer)
        t2l("keys", "revoke", key["id"], cwd=tmp_path)
        for program in (one, two):
            wait_for(lambda p=program: chat(p, headers=bearer).status_code == 401)

    assert (inside, outside) == ([200, 200], [401, 401])
    assert spent.json()["error"]["code"] == "insufficient_quota"
    assert spent.headers["x-should-retry"] == "false"
