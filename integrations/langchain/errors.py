"""
Our client's errors as LangChain's: caught as either.

* ModelError (langchain-core)
  x ModelInvalidRequestError        T2LInvalidRequest       400, 413, 422 and other 4xx
  x ContextOverflowError            T2LContextOverflow      400 context_length_exceeded
  x ModelAuthenticationError        T2LAuthenticationError  401
  x ModelPermissionDeniedError      T2LPermissionDenied     403
  x ModelNotFoundError              T2LNotFound             404
  x ModelRateLimitError             T2LRateLimited          429
  x ModelAPIError                   T2LAPIError             5xx
    + AdapterUnavailable            503 adapter_unavailable: `t2l_required` and no adapter
  x ModelConnectionError            T2LConnectionError      nobody answers there
  x ModelTimeoutError               T2LTimeout              no byte for too long, 408, 504
"""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions as core

from t2l_router.errors import CallError, CallRefused, ServerTimeout, ServerUnreachable


class T2LInvalidRequest(core.ModelInvalidRequestError, CallRefused):
    """The request can't be served as it is."""


class T2LContextOverflow(core.ContextOverflowError, T2LInvalidRequest):
    """Prompt and requested tokens don't fit into the model's context window."""


class T2LAuthenticationError(core.ModelAuthenticationError, CallRefused):
    """The API key is missing or wrong."""


class T2LPermissionDenied(core.ModelPermissionDeniedError, CallRefused):
    """The API key may not do this."""


class T2LNotFound(core.ModelNotFoundError, CallRefused):
    """No such model, or no such adapter."""


class T2LRateLimited(core.ModelRateLimitError, CallRefused):
    """Too many requests; trying again later helps."""


class T2LAPIError(core.ModelAPIError, CallRefused):
    """The server failed."""


class AdapterUnavailable(T2LAPIError):
    """No adapter for this task, and the request insisted on one (``t2l_required``)."""


class T2LConnectionError(core.ModelConnectionError, ServerUnreachable):
    """No server answers at the address given, or the connection broke."""


class T2LTimeout(core.ModelTimeoutError, ServerTimeout):
    """The server says nothing for too long."""


class T2LGatewayTimeout(core.ModelTimeoutError, CallRefused):
    """A proxy on the way gave up waiting."""


_BY_CODE: dict[str | None, type[CallRefused]] = {
    "adapter_unavailable": AdapterUnavailable,
    "context_length_exceeded": T2LContextOverflow,
}
_BY_STATUS: dict[int, type[CallRefused]] = {
    401: T2LAuthenticationError,
    403: T2LPermissionDenied,
    404: T2LNotFound,
    408: T2LGatewayTimeout,
    429: T2LRateLimited,
    504: T2LGatewayTimeout,
}
_SERVER_ERROR = 500


@contextmanager
def as_langchain() -> Iterator[None]:
    """Raise a failed call as LangChain's error of that kind."""
    try:
        yield
    except CallError as error:
        raise translated(error) from error


def translated(error: CallError) -> CallError:
    """LangChain's error of the same kind; it is still one of ours too."""
    if isinstance(error, ServerUnreachable):
        return T2LConnectionError(str(error))
    if isinstance(error, ServerTimeout):
        return T2LTimeout(str(error))
    assert isinstance(error, CallRefused), "every call error is unreachable, timeout or refused"
    usual = T2LAPIError if error.status >= _SERVER_ERROR else T2LInvalidRequest
    kind = _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, usual)
    return kind(
        str(error),
        status=error.status,
        code=error.code,
        param=error.param,
        request_id=error.request_id,
        retry_after_s=error.retry_after_s,
    )
