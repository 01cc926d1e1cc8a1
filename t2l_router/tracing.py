"""
OpenTelemetry traces after the semantic conventions for generative AI; needs the extra ``otel``.

A span is written when its exchange is over, with the times it had; so the request path carries no
tracing context, and a slow collector holds nothing.
"""

# ruff: noqa: PLC0415 - OpenTelemetry is an optional dependency
from typing import TYPE_CHECKING, Any

from t2l_router.errors import ConfigError
from t2l_router.observing import Exchange
from t2l_router.reply import Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_NS = 1_000_000_000
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SERVER_ERROR = 500


class Tracing:
    """
    Writes a span an exchange, with a child for each phase of finding the adapter.

    Args:
        tracer: Where they go.
    """

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    @classmethod
    def to(cls, provider: "TracerProvider") -> "Tracing":
        """Spans that go to a provider."""
        return cls(provider.get_tracer("t2l_router"))

    def observe(self, exchange: Exchange) -> None:
        """Write an exchange's spans."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = _OPERATIONS.get(exchange.route)
        if operation is None:
            return
        carrier = {"traceparent": exchange.traceparent} if exchange.traceparent else {}
        began = int(exchange.began_at * _NS)
        span = self._tracer.start_span(
            f"{operation} {exchange.outcomes[0].model}" if exchange.outcomes else operation,
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=began,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "t2l",
                "http.request.method": exchange.method,
                "http.route": exchange.route,
                "http.response.status_code": exchange.status,
                "t2l.request_id": exchange.request_id,
            },
        )
        if exchange.status >= _SERVER_ERROR:
            span.set_status(trace.StatusCode.ERROR)
        for outcome in exchange.outcomes:
            span.set_attributes(_attributes(outcome))
            at = began
            for phase, ms in outcome.timing_ms.items():
                child = self._tracer.start_span(
                    f"t2l.{phase}", context=trace.set_span_in_context(span), start_time=at
                )
                at += int(ms * _NS / 1_000)
                child.end(at)
        span.end(began + int(exchange.duration_s * _NS))


def open_tracing() -> Tracing:
    """
    Spans that go where the ``OTEL_...`` variables say, by OTLP over HTTP.

    Raises:
        ConfigError: The packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            "tracing needs more packages: pip install '.[otel]' in a checkout of t2l"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "t2l"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing.to(provider)


def _attributes(outcome: Outcome) -> dict[str, Any]:
    adapter = outcome.decision.adapter
    found = {
        "gen_ai.request.model": outcome.model,
        "gen_ai.response.model": outcome.model,
        "gen_ai.usage.input_tokens": outcome.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": outcome.usage.completion_tokens,
        "gen_ai.response.finish_reasons": [outcome.end],
        "t2l.decision": outcome.decision.kind,
        "t2l.adapter": adapter.adapter_id if adapter else "base",
    }
    if outcome.first_token_s is not None:
        found["gen_ai.server.time_to_first_token"] = outcome.first_token_s
    return found
