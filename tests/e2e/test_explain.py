"""Decisions as clients see them: facts on every path, explanations, feedback."""

import json

import httpx
import pytest

from adapters_store.decisions import wilson
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import EngineBusy
from tests.e2e.conftest import MODEL, serve

TASK = "Translate English sentences into French"


def explain(echo, **fields):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | fields
    return httpx.post(f"{echo.url}/v1/t2l/explain", json=body, timeout=30)


def rate(echo, **body):
    return httpx.post(f"{echo.url}/v1/t2l/feedback", json=body, timeout=30)


def test_facts_of_a_plain_answer(echo):
    """Headers and body name the decision's trace; a searched task has a score."""
    echo.post(t2l_description=TASK)
    answer = echo.post(t2l_description="Name the capital of a country")

    facts = answer.json()["t2l"]
    assert answer.headers["x-t2l-trace"] == facts["trace"]
    assert float(answer.headers["x-t2l-score"]) == facts["score"]
    assert len(facts["trace"]) == 32


def test_facts_of_a_stream(echo):
    """The first chunk has the same facts as the headers."""
    answer = echo.post(t2l_description=TASK, stream=True)
    first = json.loads(answer.text.split("\n")[0].removeprefix("data: "))

    assert first["t2l"]["trace"] == answer.headers["x-t2l-trace"]
    assert first["t2l"]["decision"] == answer.headers["x-t2l-decision"]


class BusyEngine(EchoEngine):
    """Takes nobody."""

    async def stream_chat(self, request, adapter):
        raise EngineBusy("full")
        yield


def test_error_names_its_decision():
    """An answer that fails after the decision can be looked up in the log."""
    with serve(BusyEngine()) as served:
        answer = served.post(t2l_description=TASK)
        trace = answer.headers["x-t2l-trace"]
        rated = rate(served, trace=trace, rating=-1)

    assert answer.status_code == 429
    assert rated.json()["decision"] == "generated"


def test_explain_changes_nothing(echo):
    """An explanation is the decision that a chat would get, and leaves no trace of itself."""
    task = "Count the vowels of a word"
    models = httpx.get(f"{echo.url}/v1/models").json()

    before = explain(echo, t2l_description=task).json()
    again = explain(echo, t2l_description=task).json()
    unchanged = httpx.get(f"{echo.url}/v1/models").json()
    made = echo.post(t2l_description=task).json()["t2l"]
    after = explain(echo, t2l_description=task).json()

    assert before["decision"] == again["decision"] == made["decision"] == "generated"
    assert models == unchanged
    assert before["adapter"] is None
    assert before["task"] == {"text": task, "source": "body", "examples": 0}
    assert (after["decision"], after["adapter"]) == ("exact", made["adapter"])


def test_explain_leaves_the_session_alone(echo):
    """What an explanation finds is not what the conversation then holds."""
    explain(echo, t2l_description=TASK, t2l_session="explained")

    assert explain(echo, t2l_session="explained").json()["decision"] == "base"


def test_explain_bad_request(echo):
    """A request that could not be answered can't be explained either, with the same error."""
    answer = explain(echo, model="t2l:nobody")

    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"


def test_feedback(echo):
    """A rating joins its decision; a second one replaces it."""
    answer = echo.post(t2l_description=TASK)
    trace, adapter = answer.headers["x-t2l-trace"], answer.headers["x-t2l-adapter"]

    good, bad = (rate(echo, trace=trace, rating=value) for value in (1, -1))
    router = echo.readiness.router
    stats = router._library.calls._store.decisions.stats()

    assert (good.status_code, good.json()["adapter"]) == (200, adapter)
    assert bad.json()["rating"] == -1
    (rating,) = [rate for rate in stats.win_rates if rate.adapter_id == adapter]
    assert (rating.wins, rating.n) == (0, 1)
    assert (rating.low, rating.high) == pytest.approx(wilson(0, 1))


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"trace": "unknown", "rating": 1}, 404, "trace"),
        ({"trace": "unknown", "rating": 2}, 400, "rating"),
        ({"trace": "unknown"}, 400, "rating"),
        ({"rating": 1}, 400, "trace"),
        ({"trace": "x" * 65, "rating": 1}, 400, "trace"),
        ({"trace": "x", "rating": 1, "tenant": "rival"}, 400, "tenant"),
    ],
)
def test_bad_feedback(echo, body, status, param):
    """Feedback that can't be joined says which field is at fault."""
    answer = rate(echo, **body)

    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_log_holds_no_text(echo):
    """By default neither descriptions nor messages are logged, only hashes."""
    secret = "Summarise the merger with Initech"
    trace = echo.post(
        t2l_description=secret, messages=[{"role": "user", "content": "a quiet word"}]
    ).headers["x-t2l-trace"]
    router = echo.readiness.router
    rate(echo, trace=trace, rating=1)  # which writes what waits
    entry = router._library.calls._store.decisions.get(trace, tenant="local")

    assert len(entry.description_hash) == 32
    for word in ("Initech", "merger", "quiet"):
        assert word not in str(entry)


def test_open_webui(echo):
    """Open WebUI's helper prompts get the base model; its chat ids are sessions."""

    def post(headers, **fields):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | fields
        url = f"{echo.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers).headers["x-t2l-decision"]

    chat = {"X-OpenWebUI-Chat-Id": "c-1"}
    assert post(chat, t2l_description=TASK) in ("generated", "exact")
    assert post({**chat, "X-OpenWebUI-Task": "title_generation"}) == "base"
    assert post(chat) == "sticky"
