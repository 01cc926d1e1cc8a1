"""The only table from exception to HTTP status, and every error's body."""

from dataclasses import dataclass

from t2l_router import wire
from t2l_router.errors import (
    AdapterError,
    EngineBusy,
    RequestError,
    T2LError,
    UnknownAdapter,
    UnknownModel,
)
from t2l_router.middleware import BodyTooLarge
from t2l_router.readiness import NotReady


@dataclass(frozen=True, slots=True)
class Fault:
    """
    How an error looks from outside.

    Args:
        status: HTTP status.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``, where the error has none of its own.
        retry_after_s: When trying again may help.
    """

    status: int
    kind: str = "invalid_request_error"
    code: str | None = None
    retry_after_s: int | None = None


# The only table from error to status, looked up along the error's classes.
FAULTS: dict[type[BaseException], Fault] = {
    RequestError: Fault(400),
    UnknownModel: Fault(404),
    UnknownAdapter: Fault(404),
    BodyTooLarge: Fault(413),
    EngineBusy: Fault(429, "rate_limit_error", "engine_busy", retry_after_s=1),
    AdapterError: Fault(503, "server_error", "adapter_unavailable", retry_after_s=1),
    NotReady: Fault(503, "server_error", "not_ready", retry_after_s=2),
    Exception: Fault(500, "server_error", "internal_error"),
}


def fault_of(error: BaseException) -> tuple[Fault, wire.ErrorBody]:
    """Status and body of an error; the text of an unexpected one stays in the log."""
    fault = next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)
    message = str(error) if isinstance(error, T2LError) else "internal error; the log says more"
    detail = wire.ErrorDetail(
        message=message,
        type=fault.kind,
        param=getattr(error, "param", None),
        code=getattr(error, "code", None) or fault.code,
    )
    return fault, wire.ErrorBody(error=detail)
