"""``t2l explain`` and ``t2l stats`` over a library with traffic."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from t2l_router.bootstrap import build_router
from t2l_router.cli.main import main
from t2l_router.config import Settings
from t2l_router.engines.echo import EchoEngine
from t2l_router.router import Caller
from tests.e2e.conftest import serve
from tests.routers import answer

TASK = "Translate English sentences into French"


@pytest.fixture(name="t2l")
def _t2l(tmp_path, monkeypatch):
    """Runs a command over the library of a router that has answered two requests."""
    monkeypatch.setenv("T2L_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("T2L_ENGINE", "echo")

    async def traffic() -> None:
        router = build_router(Settings())
        for trace in ("first", "second"):
            await answer(router, Caller(trace=trace), model="echo", t2l_description=TASK)
        await router.rate("first", 1, tenant="local")
        await router.close()

    asyncio.run(traffic())

    def run(*args, code=0):
        result = CliRunner().invoke(main, list(args))
        assert result.exit_code == code, result.output
        return result.output if code else result.stdout

    return run


def test_explain_description(t2l):
    """A held description is an exact hit; another would have an adapter written."""
    held = json.loads(t2l("explain", TASK, "--format", "json"))
    new = json.loads(t2l("explain", "Sort the words", "--format", "json"))

    assert (held["decision"], new["decision"], new["adapter"]) == ("exact", "generated", None)
    assert new["nearest"]["description"] == TASK


def test_explain_examples(t2l, tmp_path):
    """Examples are another task than the same description without them."""
    file = tmp_path / "examples.jsonl"
    file.write_text('{"input": "sun", "output": "soleil"}')
    shown = json.loads(t2l("explain", TASK, "--examples", str(file), "--format", "json"))

    assert (shown["decision"], shown["nearest"]) == ("generated", None)
    assert shown["task"] == {"text": TASK, "source": "examples", "examples": 1}


def test_explain_request(t2l, tmp_path):
    """A whole request can be explained."""
    body = tmp_path / "request.json"
    message = {"role": "user", "content": "hi"}
    body.write_text(json.dumps({"model": "t2l:base", "messages": [message]}))

    assert json.loads(t2l("explain", "--request", str(body), "--format", "json"))["reason"] == (
        "the request asks for the base model"
    )


def test_explain_trace(t2l):
    """A decision of the past is looked up by its trace; another tenant's is not found."""
    entry = json.loads(t2l("explain", "--trace", "first", "--format", "json"))

    assert (entry["kind"], entry["source"]) == ("generated", "body")
    assert "detail" not in entry
    t2l("explain", "--trace", "first", "--tenant", "rival", code=3)


def test_explain_by_a_server(t2l, tmp_path):
    """A server explains a task or a request as this machine does, and looks no traces up."""
    body = tmp_path / "request.json"
    message = {"role": "user", "content": "hi"}
    body.write_text(json.dumps({"model": "t2l:base", "messages": [message]}))

    with serve(EchoEngine()) as served:
        task = t2l("explain", TASK, "--server", served.url, "--format", "json")
        request = t2l("explain", "--request", str(body), "--server", served.url)
        refused = t2l("explain", "--trace", "first", "--server", served.url, code=2)
        body.write_text("[")
        wrong = t2l("explain", "--request", str(body), "--server", served.url, code=2)

    assert json.loads(task)["decision"] == "generated"
    assert "the request asks for the base model" in request
    assert "--trace looks where the library is" in refused
    assert "the body is not JSON" in wrong
    assert "no answer from" in t2l("explain", TASK, "--server", served.url, code=6)


@pytest.mark.parametrize("args", [[], [TASK, "--trace", "first"]])
def test_explain_usage(t2l, args):
    """One thing is explained at a time."""
    assert "give a task" in t2l("explain", *args, code=2)


def test_stats(t2l):
    """Decisions by kind, the share served by held adapters, and win rates with their interval."""
    stats = json.loads(t2l("stats", "--format", "json"))

    assert (stats["decisions"], stats["generated"], stats["exact"]) == (2, 1, 1)
    assert stats["served_by_held_adapter"] == 0.5
    (rate,) = stats["win_rates"]
    assert (rate["wins"], rate["n"]) == (1, 1)
    assert 0 < rate["low"] < rate["high"] == 1
    assert "rated" in t2l("stats", "--format", "human").lower()


def test_recent_decisions(t2l):
    """The last decisions, newest first."""
    rows = json.loads(t2l("stats", "--recent", "5", "--format", "json"))

    assert [row["trace"] for row in rows] == ["second", "first"]


def test_thresholds_and_calibration_from_the_log(t2l):
    """The thresholds in use are shown; a log without comparisons changes nothing."""
    shown = json.loads(t2l("index", "thresholds", "--format", "json"))
    found = json.loads(t2l("index", "calibrate", "--from-log", "--format", "json"))

    assert shown["source"] == "measured and shipped with t2l"
    assert found["compared"] == 0
    assert json.loads(t2l("index", "thresholds", "--format", "json")) == shown
    t2l("index", "calibrate", code=2)
