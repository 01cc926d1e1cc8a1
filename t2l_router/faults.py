"""The only table from exception to HTTP status, and every error's body."""

from dataclasses import dataclass

from adapters_store import errors as store
from t2l_router import wire
from t2l_router.errors import (
    AccessError,
    AccessUnavailable,
    AdapterError,
    BudgetExceeded,
    BudgetSpent,
    EngineBusy,
    EngineFailed,
    EngineUnreachable,
    GenerationBusy,
    InvalidKey,
    KeyLacksScope,
    LibraryUnavailable,
    RateLimited,
    RequestError,
    T2LError,
    UnknownAdapter,
    UnknownDecision,
    UnknownModel,
    UpstreamFailed,
    UpstreamTimeout,
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
    UnknownDecision: Fault(404),
    BodyTooLarge: Fault(413),
    AccessError: Fault(403, "permission_error", "forbidden"),
    InvalidKey: Fault(401, "authentication_error"),
    KeyLacksScope: Fault(403, "permission_error"),
    RateLimited: Fault(429, "rate_limit_error", retry_after_s=1),
    BudgetSpent: Fault(429, "insufficient_quota"),
    AccessUnavailable: Fault(503, "server_error", "access_unavailable", retry_after_s=2),
    store.NotFound: Fault(404, code="not_found"),
    store.Conflict: Fault(409, "conflict_error", "conflict"),
    store.InvalidInput: Fault(400, code="invalid_value"),
    store.StoreUnavailable: Fault(503, "server_error", "store_unavailable", retry_after_s=2),
    EngineBusy: Fault(429, "rate_limit_error", "engine_busy", retry_after_s=1),
    UpstreamFailed: Fault(502, "server_error", "upstream_failed"),
    UpstreamTimeout: Fault(504, "server_error", "upstream_timeout"),
    EngineFailed: Fault(502, "server_error", "engine_failed"),
    EngineUnreachable: Fault(503, "server_error", "engine_unreachable", retry_after_s=2),
    AdapterError: Fault(503, "server_error", "adapter_unavailable", retry_after_s=1),
    GenerationBusy: Fault(429, "rate_limit_error", "generation_busy", retry_after_s=1),
    BudgetExceeded: Fault(429, "rate_limit_error", "generation_budget", retry_after_s=60),
    LibraryUnavailable: Fault(503, "server_error", "library_unavailable", retry_after_s=2),
    NotReady: Fault(503, "server_error", "not_ready", retry_after_s=2),
    Exception: Fault(500, "server_error", "internal_error"),
}


# Their texts are for the caller; those of other errors may hold what strangers should not see.
_TOLD = (T2LError, store.NotFound, store.Conflict, store.InvalidInput)


def fault_of(error: BaseException) -> tuple[Fault, wire.ErrorBody]:
    """Status and body of an error; the text of an unexpected one stays in the log."""
    fault = next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)
    message = str(error) if isinstance(error, _TOLD) else "internal error; the log says more"
    if isinstance(error, store.StoreUnavailable):
        message = "the adapter library can't be reached; try again"
    detail = wire.ErrorDetail(
        message=message,
        type=fault.kind,
        param=getattr(error, "param", None),
        code=getattr(error, "code", None) or fault.code,
    )
    return fault, wire.ErrorBody(error=detail)


def headers_of(error: BaseException) -> dict[str, str]:
    """What a client's own retries need to know about an error."""
    fault, _ = fault_of(error)
    wait_s = getattr(error, "retry_after_s", fault.retry_after_s)
    headers = dict(getattr(error, "headers", None) or ())
    if wait_s is not None:
        headers["retry-after"] = str(wait_s)
    if isinstance(error, BudgetSpent):
        headers["x-should-retry"] = "false"  # OpenAI's clients retry every other 429
    if isinstance(error, InvalidKey):
        headers["www-authenticate"] = "Bearer"
    return headers
