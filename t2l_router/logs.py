"""Log lines for people or for machines; never with anything that was said in a conversation."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from t2l_router.observing import Exchange

LogFormat = Literal["text", "json"]

logger = logging.getLogger(__name__)
_OURS = ("t2l_router", "adapters_store")
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what is in the record's ``fields`` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Encode a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the moment: while bars are drawn there, lines go above them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def set_up(level: str, form: LogFormat) -> None:
    """Write logs to stderr; calling it again changes level and form."""
    handler = Stderr()
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def log_exchange(exchange: Exchange) -> None:
    """One line an exchange; those of probes only at level debug."""
    quiet = exchange.route in _QUIET_ROUTES and exchange.status < 400  # noqa: PLR2004
    level = logging.DEBUG if quiet else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "duration_ms": round(exchange.duration_s * 1_000, 2),
    }
    if exchange.principal:
        fields |= {"tenant": exchange.principal.tenant, "key": exchange.principal.key_id}
    for outcome in exchange.outcomes:
        adapter = outcome.decision.adapter
        fields |= {
            "decision": outcome.decision.kind,
            "adapter": adapter.adapter_id if adapter else None,
            "end": outcome.end,
            "prompt_tokens": outcome.usage.prompt_tokens,
            "completion_tokens": outcome.usage.completion_tokens,
        }
    told = " ".join(str(fields[key]) for key in ("method", "route", "status", "duration_ms"))
    said = [str(fields[key]) for key in ("decision", "adapter", "end", "tenant") if fields.get(key)]
    if exchange.outcomes:
        said.append(f"{fields['prompt_tokens']}+{fields['completion_tokens']} tokens")
    rest = " ".join([*said, exchange.request_id])
    logger.log(level, "%s ms %s", told, rest, extra={"fields": fields})
