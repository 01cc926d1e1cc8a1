"""What each HTTP exchange was, told to whoever counts, logs or traces."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2l_router.access import Principal
from t2l_router.reply import Outcome


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    A request and its answer; nothing of what was said.

    Args:
        request_id: Goes with the answer.
        method: Of HTTP, or ``other``.
        route: The route's pattern, not the path; ``other`` where there is none.
        status: Of HTTP; 499 where the client left before the answer.
        began_at: Seconds since 1970.
        duration_s: Until the last byte was sent.
        principal: Who asked; None before that was known.
        traceparent: The caller's trace, as W3C has it.
        outcomes: Of the answers that were begun.
    """

    request_id: str
    method: str
    route: str
    status: int
    began_at: float
    duration_s: float
    principal: Principal | None
    traceparent: str | None
    outcomes: tuple[Outcome, ...]


Observer = Callable[[Exchange], None]
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class ObserveMiddleware:
    """
    Tells observers of every exchange once it is over.

    Args:
        app: The next application.
        observers: Called in turn.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self.app = app
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell when it is over."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_at, start = time.time(), time.perf_counter()
        status = 499
        state = scope.setdefault("state", {})
        state["outcomes"] = []

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            traceparent = dict(scope["headers"]).get(b"traceparent")
            exchange = Exchange(
                request_id=state.get("request_id", ""),
                method=scope["method"] if scope["method"] in _METHODS else "other",
                route=getattr(scope.get("route"), "path", "other"),
                status=status,
                began_at=began_at,
                duration_s=time.perf_counter() - start,
                principal=state.get("principal"),
                traceparent=traceparent.decode("latin-1") if traceparent else None,
                outcomes=tuple(state["outcomes"]),
            )
            for observe in self.observers:
                observe(exchange)
