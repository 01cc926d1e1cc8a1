"""What every HTTP request passes before the routes: an id, and a limit on its size."""

import re
import uuid
from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2l_router.errors import RequestError
from t2l_router.wire import ErrorBody, ErrorDetail

_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class BodyTooLarge(RequestError):
    """The request's body has more bytes than the server takes."""

    code = "request_too_large"


def no_such_path(scope: Scope) -> JSONResponse:
    """The answer for a path that nothing is served at."""
    path = "".join(c if c.isprintable() else "?" for c in scope["path"][:80])
    told = f"there is no {scope['method']} {path} here; /openapi.json lists what there is"
    detail = ErrorDetail(message=told, type="invalid_request_error", code="unknown_url")
    return JSONResponse(ErrorBody(error=detail).model_dump(), 404)


class RequestIdMiddleware:
    """
    Answers every HTTP request with an ``x-request-id``: the caller's, if it is a plain one.

    The id also stands in ``scope["state"]["request_id"]``; routes add further headers to
    ``scope["state"]["headers"]``, which go out with whatever answer there is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its answer back with the id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _PLAIN_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["headers"] = [(b"x-request-id", request_id)]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *state["headers"]]
            await send(message)

        await self.app(scope, receive, send_with_id)


class AdminPortMiddleware:
    """
    Keeps the admin API and metrics to one port, and everything else but the probes off it.

    Args:
        app: The next application.
        port: Theirs.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer as if there were no such path."""
        if scope["type"] == "http":
            path: str = scope["path"]
            # The port of the connection: what the header Host says is the client's word.
            at_admin = scope["server"] is not None and scope["server"][1] == self.port
            inside = path == "/metrics" or path.startswith("/admin/")
            if at_admin != inside and not path.startswith("/health/"):
                await no_such_path(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """
    Ends a request whose body is too large: reading it raises `BodyTooLarge`.

    Args:
        app: The next application.
        max_bytes: The largest body.
        larger: The largest body for single paths.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its body up to the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.larger.get(scope["path"], self.max_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"")
        # Refused before a byte is read; the server checks that the header is true.
        too_large = announced.isdigit() and int(announced) > max_bytes
        n_read = 0

        async def receive_counted() -> Message:
            nonlocal n_read
            if not too_large:
                message = await receive()
                n_read += len(message.get("body", b""))
                if n_read <= max_bytes:
                    return message
            raise BodyTooLarge(f"the body is larger than {max_bytes:,} bytes")

        await self.app(scope, receive_counted, send)
