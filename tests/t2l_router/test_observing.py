"""What is counted, logged and traced of an exchange, and that nothing said is among it."""

import contextlib
import io
import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from t2l_router import logs
from t2l_router.access import Principal
from t2l_router.metrics import Metrics
from t2l_router.observing import Exchange
from t2l_router.readiness import Readiness
from t2l_router.reply import Outcome
from t2l_router.router import Decision
from t2l_router.tracing import Tracing
from t2l_router.wire import Usage


def exchange(**changes):
    outcome = Outcome(
        model="org/base",
        decision=Decision("base", "why"),
        usage=Usage.of(10, 21),
        end="stop",
        first_token_s=0.5,
        duration_s=2.5,
        timing_ms={"embed": 12.0, "odd phase": 1.0, "first_token": 500.0},
    )
    given = {
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "began_at": 1_000.0,
        "duration_s": 2.6,
        "principal": Principal("acme", ("chat",), "key1"),
        "traceparent": None,
        "outcomes": (outcome,),
    }
    return Exchange(**given | changes)


def samples(metrics) -> dict:
    """Every sample by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_metrics():
    """An exchange is counted once, with its tokens, phases and speed."""
    metrics = Metrics(Readiness(), slots=16)
    metrics.observe(exchange())

    found = samples(metrics)
    route = ("route", "/v1/chat/completions")
    assert found["t2l_requests_total", ("method", "POST"), route, ("status", "200")] == 1
    assert found["t2l_request_seconds_sum", route] == 2.6
    assert found["t2l_answers_total", ("decision", "base"), ("end", "stop")] == 1
    assert found["t2l_tokens_total", ("kind", "completion")] == 21
    assert found["t2l_phase_seconds_sum", ("phase", "embed")] == 0.012
    assert found["t2l_phase_seconds_sum", ("phase", "other")] == 0.001
    assert found["t2l_tokens_per_second_sum",] == 10
    assert (found["t2l_ready",], found["t2l_engine_slots",]) == (0, 16)
    assert ("process_open_fds",) in found


def test_labels_are_bounded():
    """Whatever clients send, the number of series stays the same."""
    metrics = Metrics(Readiness())
    metrics.observe(exchange(route="other", status=404))
    before = len(samples(metrics))

    for number in range(100):
        tenant = Principal(f"tenant{number}", ("chat",), f"key{number}")
        metrics.observe(
            exchange(route="other", status=404, principal=tenant, request_id=f"{number}")
        )

    assert len(samples(metrics)) == before


@pytest.fixture(name="stderr")
def _stderr(capsys):
    yield lambda: capsys.readouterr().err
    logging.basicConfig(force=True)
    for name in ("t2l_router", "adapters_store"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_json_log(stderr):
    """An exchange is one JSON object, with ids and numbers only."""
    logs.set_up("info", "json")
    logs.log_exchange(exchange())

    (line,) = map(json.loads, stderr().splitlines())
    assert line["level"] == "info"
    assert {key: line[key] for key in ("request_id", "tenant", "key", "status", "decision")} == {
        "request_id": "req_1",
        "tenant": "acme",
        "key": "key1",
        "status": 200,
        "decision": "base",
    }


def test_text_log(stderr):
    """For people it is one line."""
    logs.set_up("info", "text")
    logs.log_exchange(exchange())

    said = stderr()
    assert said.count("\n") == 1
    assert "POST /v1/chat/completions 200 2600.0 ms base stop acme 10+21 tokens req_1" in said


def test_log_above_bars(stderr):
    """What takes stderr's place for a while, as bars do, gets the lines."""
    logs.set_up("info", "text")
    with contextlib.redirect_stderr(io.StringIO()) as bars:
        logs.log_exchange(exchange())
    logs.log_exchange(exchange(request_id="req_2"))

    assert "req_1" in bars.getvalue()
    assert "req_1" not in (said := stderr())
    assert "req_2" in said


def test_probes_are_quiet(stderr):
    """Probes that succeed fill no logs; those that fail are told."""
    logs.set_up("info", "text")
    logs.log_exchange(exchange(route="/health/ready", outcomes=()))
    assert stderr() == ""

    logs.log_exchange(exchange(route="/health/ready", outcomes=(), status=503))
    assert "503" in stderr()


def test_exception_in_json(stderr):
    """A traceback stays within its line."""
    logs.set_up("info", "json")
    try:
        int("broken\nin two")
    except ValueError:
        logging.getLogger("t2l_router.x").exception("it broke")

    (line,) = map(json.loads, stderr().splitlines())
    assert "ValueError" in line["exception"]


def test_trace():
    """A span carries GenAI's attributes, continues the caller's trace, and has a child a phase."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = f"00-{'a' * 32}-{'b' * 16}-01"

    Tracing.to(provider).observe(exchange(traceparent=parent))
    Tracing.to(provider).observe(exchange(route="/health/live", outcomes=()))

    *children, span = exporter.get_finished_spans()
    assert span.name == "chat org/base"
    assert f"{span.context.trace_id:032x}" == "a" * 32
    assert f"{span.parent.span_id:016x}" == "b" * 16
    assert span.attributes["gen_ai.usage.output_tokens"] == 21
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert (span.start_time, span.end_time) == (1_000_000_000_000, 1_002_600_000_000)
    assert [child.name for child in children] == ["t2l.embed", "t2l.odd phase", "t2l.first_token"]
    assert all(child.parent.span_id == span.context.span_id for child in children)


@pytest.mark.parametrize("given", ["", "nonsense", "00-zz-zz-01", "a" * 10_000])
def test_foreign_traceparent(given):
    """A broken ``traceparent`` begins a trace of our own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    Tracing.to(provider).observe(exchange(traceparent=given, outcomes=()))

    (span,) = exporter.get_finished_spans()
    assert span.parent is None
