"""``t2l serve --workers``: several processes, one port, one library."""

import json
import os
import re
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from adapters_store import AdapterStore, StoreConfig
from tests.e2e.program import serving, t2l

pytestmark = pytest.mark.slow

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


def children(pid: int) -> list[int]:
    """The processes that serve: those with a worker's command line."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(number)
        for number in numbers
        if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.1)


@pytest.fixture(scope="module", name="started")
def _started(tmp_path_factory):
    """Two workers, a chat key of acme, and an admin key."""
    cwd = tmp_path_factory.mktemp("workers")
    keys = {
        scope: json.loads(
            t2l("keys", "create", tenant, "--scope", scope, "--format", "json", cwd=cwd).stdout
        )["key"]
        for tenant, scope in (("acme", "chat"), ("local", "admin"))
    }
    with serving("--engine", "echo", "--workers", "2", "--admin-port", "0", cwd=cwd) as program:
        admin = re.search(r"http://\S+", program.process.stderr.readline())[0]
        program.wait_ready()
        wait_for(lambda: len(children(program.process.pid)) == 2)
        yield program, cwd, keys, admin


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def metric(admin: str, key: str, name: str) -> float:
    text = httpx.get(f"{admin}/metrics", headers=bearer(key)).text
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)
    )


def ask(program, key, **fields) -> httpx.Response:
    """Ask on a connection of its own, so that any worker may take it."""
    return httpx.post(f"{program.url}{PATH}", json=CHAT | fields, headers=bearer(key), timeout=60)


def refusal(program, key) -> str | None:
    """The code of the error, if it is one."""
    return ask(program, key).json().get("error", {}).get("code")


def test_one_generation(started):
    """Many requests for one new task, over both processes, write one adapter."""
    program, cwd, keys, _ = started
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: ask(program, keys["chat"], t2l_description="Just once"), range(64))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-t2l-adapter"] for answer in answers}) == 1
    with AdapterStore.open(StoreConfig.in_directory(cwd / "data" / "library")) as store:
        made = [e for e in store.history(tenant="acme", limit=None) if e.action == "add.generated"]
    assert len(made) == 1


def test_metrics_add_up(started):
    """Whichever process is asked tells what all have counted."""
    program, _, keys, admin = started
    before = metric(admin, keys["admin"], 't2l_answers_total{decision="base"')
    for _ in range(20):
        assert ask(program, keys["chat"]).is_success
    counts = [metric(admin, keys["admin"], 't2l_answers_total{decision="base"') for _ in range(6)]

    assert set(counts) == {before + 20}


def test_conversation_moves(started):
    """A conversation keeps its adapter whichever process takes its turns."""
    program, _, keys, _ = started
    first = ask(program, keys["chat"], t2l_description="Stay with me", t2l_session="s1")
    turns = [ask(program, keys["chat"], t2l_session="s1") for _ in range(12)]

    assert {turn.headers["x-t2l-adapter"] for turn in turns} == {first.headers["x-t2l-adapter"]}
    assert {turn.headers["x-t2l-decision"] for turn in turns} == {"sticky"}


def test_limits(started):
    """Limits per minute count in each process, tokens per day over all, as the guide says."""
    program, cwd, keys, _ = started
    limit = ("keys", "limits", "acme", "--format", "quiet")
    t2l(*limit, "--requests-per-minute", "5", cwd=cwd)
    wait_for(lambda: ask(program, keys["chat"]).status_code == 429)
    statuses = Counter(ask(program, keys["chat"]).status_code for _ in range(40))
    t2l(*limit, "--requests-per-minute", "default", "--tokens-per-day", "1", cwd=cwd)
    # The minute's limit is a 429 too, until both processes have read that it is gone.
    wait_for(lambda: {refusal(program, keys["chat"]) for _ in range(20)} == {"insufficient_quota"})
    t2l(*limit, "--tokens-per-day", "default", cwd=cwd)
    wait_for(lambda: {ask(program, keys["chat"]).status_code for _ in range(20)} == {200})

    assert statuses[200] <= 2 * 5


def test_a_worker_dies(started):
    """Another takes its place, and requests are answered meanwhile."""
    program, _, keys, _ = started
    victim, other = children(program.process.pid)
    os.kill(victim, signal.SIGKILL)
    statuses = set()
    for _ in range(30):
        try:
            statuses.add(ask(program, keys["chat"]).status_code)
        except httpx.TransportError:  # it held this connection
            statuses.add(0)
    wait_for(lambda: len(children(program.process.pid)) == 2)

    assert 200 in statuses
    assert statuses <= {0, 200}
    assert other in children(program.process.pid)
    assert victim not in children(program.process.pid)


def test_sighup_and_sigterm(tmp_path):
    """Signals reach every worker: limits are reloaded, streams finished, and all of them end."""
    settings = tmp_path / "t2l.toml"
    echo = ("--engine", "echo", "--workers", "2")
    with serving(*echo, cwd=tmp_path, T2L_ECHO_DELAY_S="0.2") as program:
        program.wait_ready()
        wait_for(lambda: len(children(program.process.pid)) == 2)
        time.sleep(3)  # until the second has its handler
        settings.write_text("requests_per_minute = 1\n")
        program.process.send_signal(signal.SIGHUP)
        url = f"{program.url}{PATH}"
        wait_for(lambda: {httpx.post(url, json=CHAT).status_code for _ in range(10)} == {429})
        settings.write_text("")
        program.process.send_signal(signal.SIGHUP)
        wait_for(lambda: {httpx.post(url, json=CHAT).status_code for _ in range(4)} == {200})
        workers = children(program.process.pid)
        long = CHAT | {"stream": True, "messages": [{"role": "user", "content": "word " * 10}]}
        with httpx.stream("POST", url, json=long, timeout=60) as answer:
            pieces = answer.iter_text()
            next(pieces)
            program.process.send_signal(signal.SIGTERM)
            rest = "".join(pieces)
        program.process.wait(20)

    assert rest.endswith("data: [DONE]\n\n")
    assert program.process.returncode == -signal.SIGTERM
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)  # noqa: PTH110


def test_cannot_load(tmp_path):
    """Workers that can't load end the program with the reason and its exit code."""
    echo = ("--engine", "echo", "--workers", "2")
    with serving(*echo, cwd=tmp_path, T2L_STAND_IN="nobody") as program:
        program.process.wait(60)
        said = program.process.stderr.read()

    assert program.process.returncode == 2
    assert re.search(r"^Error: .*nobody", said, re.MULTILINE)
    assert "Traceback" not in said


def test_parent_is_killed(tmp_path):
    """Workers don't outlive the program that looks after them."""
    with serving("--engine", "echo", "--workers", "2", cwd=tmp_path) as program:
        program.wait_ready()
        workers = children(program.process.pid)
        program.process.kill()
        program.process.wait()
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))  # noqa: PTH110

    assert len(workers) == 2
