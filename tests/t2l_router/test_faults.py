import inspect

import pytest

from adapters_store import errors as store
from t2l_router import errors
from t2l_router.faults import FAULTS, fault_of, headers_of
from t2l_router.middleware import BodyTooLarge
from t2l_router.readiness import NotReady

TREE = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    # What a client of ours meets is never raised in a server.
    if issubclass(error, errors.T2LError) and not issubclass(error, errors.CallError)
]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.InvalidRequest("x", param="p"), 400, "invalid_request_error", "invalid_value"),
        (errors.InvalidDescription("x"), 400, "invalid_request_error", "invalid_task_description"),
        (errors.PromptTooLong("x"), 400, "invalid_request_error", "context_length_exceeded"),
        (errors.UnknownModel("x"), 404, "invalid_request_error", "model_not_found"),
        (errors.UnknownAdapter("x"), 404, "invalid_request_error", "adapter_not_found"),
        (BodyTooLarge("x"), 413, "invalid_request_error", "request_too_large"),
        (errors.InvalidKey("x"), 401, "authentication_error", "invalid_api_key"),
        (errors.KeyLacksScope("x"), 403, "permission_error", "insufficient_scope"),
        (errors.RateLimited("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (errors.BudgetSpent("x"), 429, "insufficient_quota", "insufficient_quota"),
        (errors.AccessUnavailable("x"), 503, "server_error", "access_unavailable"),
        (store.AdapterNotFound("x"), 404, "invalid_request_error", "not_found"),
        (store.AdapterPinned("x"), 409, "conflict_error", "conflict"),
        (store.InvalidName("x"), 400, "invalid_request_error", "invalid_value"),
        (errors.EngineBusy("x"), 429, "rate_limit_error", "engine_busy"),
        (errors.GenerationFailed("x"), 503, "server_error", "adapter_unavailable"),
        (NotReady("x"), 503, "server_error", "not_ready"),
        (errors.EngineFailed("x"), 502, "server_error", "engine_failed"),
        (errors.EngineUnreachable("x"), 503, "server_error", "engine_unreachable"),
        (errors.UpstreamFailed("x"), 502, "server_error", "upstream_failed"),
        (errors.UpstreamTimeout("x"), 504, "server_error", "upstream_timeout"),
    ],
)
def test_fault(error, status, kind, code):
    """Each error has its status, type and code."""
    fault, body = fault_of(error)

    assert (fault.status, body.error.type, body.error.code) == (status, kind, code)
    assert body.error.message == "x"
    assert body.error.param == getattr(error, "param", None)


@pytest.mark.parametrize("kind", TREE)
def test_whole_tree_is_covered(kind):
    """Every error of the tree has a status, and the caller's faults are never a 5xx."""
    fault, _ = fault_of(kind("x"))

    is_callers = issubclass(kind, errors.RequestError | errors.AccessError)
    assert is_callers == (fault.status < 500) or fault.retry_after_s


def test_unexpected_error_stays_inside():
    """The text of an error nobody expected is not for strangers."""
    for error in (KeyError("secret"), store.StoreBusy("secret"), store.StoreCorrupt("secret")):
        _, body = fault_of(error)

        assert "secret" not in body.model_dump_json()


def test_retry_after_only_where_it_helps():
    """Only errors that pass by themselves ask the client to come again."""
    assert {fault.status for fault in FAULTS.values() if fault.retry_after_s} == {429, 503}


def test_headers_for_the_clients_retries():
    """A limit says when to come again; a spent budget says not to; a missing key says how."""
    limited = errors.RateLimited(
        "x", retry_after_s=7, headers=(("x-ratelimit-limit-requests", "3"),)
    )

    assert headers_of(limited) == {"retry-after": "7", "x-ratelimit-limit-requests": "3"}
    assert headers_of(errors.BudgetSpent("x")) == {"x-should-retry": "false"}
    assert headers_of(errors.InvalidKey("x")) == {"www-authenticate": "Bearer"}
    assert headers_of(errors.InvalidRequest("x")) == {}
