"""The OpenAI-compatible HTTP API: bytes to a request, an answer to bytes, errors to statuses."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from adapters_store import AdapterStore
from adapters_store.errors import StoreError
from t2l_router import admin, completions, embeddings, wire
from t2l_router.errors import InvalidRequest, T2LError, UnknownModel
from t2l_router.event_stream import EventStream, Watch
from t2l_router.explain_routes import add_explain_routes
from t2l_router.faults import fault_of, headers_of
from t2l_router.gate import Gate, caller_of, tenant_of
from t2l_router.metrics import CONTENT_TYPE, Metrics
from t2l_router.middleware import (
    AdminPortMiddleware,
    BodyLimitMiddleware,
    RequestIdMiddleware,
    no_such_path,
)
from t2l_router.observing import ObserveMiddleware, Observer
from t2l_router.readiness import Readiness
from t2l_router.reply import Outcome, Reply
from t2l_router.wording import ChatWording, TextWording

logger = logging.getLogger(__name__)


def create_app(
    readiness: Readiness,
    *,
    max_body_bytes: int,
    keep_alive_s: float,
    max_import_bytes: int = 256 << 20,
    admin_port: int | None = None,
    strict: bool = False,
    gate: Gate | None = None,
    store: AdapterStore | None = None,
    metrics: Metrics | None = None,
    observers: Sequence[Observer] = (),
    lifespan: Lifespan[FastAPI] | None = None,
) -> ASGIApp:
    """
    Build the application.

    Args:
        readiness: Holds the router, once there is one.
        max_body_bytes: Largest request body.
        keep_alive_s: Longest silence in a stream.
        max_import_bytes: Largest adapter that the admin API takes in.
        admin_port: The only port of the admin API and of metrics; None is any.
        strict: Refuse request fields that nobody knows.
        gate: Lets requests in; None lets all in.
        store: Run by the routes below ``/admin``; None leaves them out.
        metrics: Shown at ``/metrics``.
        observers: Told of every exchange.
        lifespan: Entered before the first request, left after the last.
    """
    gate = gate or Gate()
    api = Api(readiness, gate, keep_alive_s, strict=strict)
    app = FastAPI(title="t2l", version=version("t2l"), lifespan=lifespan, responses=_ERRORS)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign] # FastAPI's own way
    may_look = [Depends(gate.look)]
    answering = (
        AnswerRoute("/v1/chat/completions", api.chat, wire.ChatRequest, wire.ChatCompletion),
        AnswerRoute("/v1/completions", api.complete, completions.CompletionRequest),
        AnswerRoute("/v1/embeddings", api.embed, embeddings.EmbeddingRequest),
    )
    for route in answering:
        # `AnswerRoutes` runs them; here they are documented, and other methods refused.
        app.add_api_route(
            route.path,
            route.endpoint,
            methods=["POST"],
            openapi_extra=_body_of(route.body),
            responses={200: {"model": route.answer}} if route.answer else None,
        )
    app.add_api_route(
        "/v1/models", api.models, dependencies=may_look, response_model=wire.ModelList
    )
    app.add_api_route(
        "/v1/models/{model:path}", api.model, dependencies=may_look, response_model=wire.ModelCard
    )
    add_explain_routes(app, readiness, gate, strict=strict)
    app.add_api_route("/health/live", api.live)
    app.add_api_route("/health/ready", api.ready)
    if store is not None:
        app.include_router(admin.routes(store, gate, readiness, max_import_bytes=max_import_bytes))
    app.add_exception_handler(RequestValidationError, _report_invalid)
    app.add_exception_handler(HTTPException, _report_http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(T2LError, _report)
    app.add_exception_handler(StoreError, _report)
    app.add_exception_handler(Exception, _report)
    if metrics is not None:
        app.add_api_route(
            "/metrics", _shown(metrics), dependencies=[Depends(gate.admin)], include_in_schema=False
        )
        observers = [metrics.observe, *observers]
    routed = AnswerRoutes(app, answering)
    doors = routed if admin_port is None else AdminPortMiddleware(routed, admin_port)
    # Outside FastAPI, so that its own answer to an unexpected error has an id too.
    larger = {admin.IMPORT_PATH: max_import_bytes}
    limited = BodyLimitMiddleware(doors, max_body_bytes, larger)
    return RequestIdMiddleware(ObserveMiddleware(limited, observers))


@dataclass(frozen=True, slots=True)
class AnswerRoute:
    """
    One of the routes that answer; metrics and logs know it by its path.

    Args:
        path: As it is asked for.
        endpoint: Passes the gate and reads the body itself.
        body: What it reads, for the documentation.
        answer: What it answers in one piece, for the same.
    """

    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    body: type[wire.Incoming]
    answer: type[BaseModel] | None = None


class AnswerRoutes:
    """
    Runs the routes that answer, past FastAPI: its layers take as long as a short answer does.

    Args:
        app: Answers everything else.
        routes: The method is POST.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[AnswerRoute]) -> None:
        self.app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens: an unexpected error goes on to the server's log."""
        route = self._routes.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except HTTPException as error:
            response = await _report_http(request, error)
        except ClientDisconnect:
            response = await _gone()
        except (T2LError, StoreError) as error:
            response = await _report(request, error)
        except Exception as error:
            response = await _report(request, error)
            await response(scope, receive, send)
            raise
        await response(scope, receive, send)


def _shown(metrics: Metrics) -> Callable[[], Awaitable[Response]]:
    async def show() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return show


_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": wire.ErrorBody, "description": "The caller's fault, or not now."},
    "5XX": {"model": wire.ErrorBody, "description": "Ours."},
}


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the schemas of the bodies that routes read themselves."""
    if app.openapi_schema is None:
        app.openapi_schema = FastAPI.openapi(app)
        app.openapi_schema["components"]["schemas"] |= wire.components()
    return app.openapi_schema


def _body_of(model: type[wire.Incoming]) -> dict[str, Any]:
    """The OpenAPI of a body that the route reads itself."""
    content = {"application/json": {"schema": wire.body_schema(model)}}
    # The route passes the gate itself: as FastAPI's dependency that takes a fifth of its time.
    return {
        "requestBody": {"required": True, "content": content},
        "security": [{"HTTPBearer": []}],
    }


class Api:
    """
    The routes.

    Args:
        readiness: Holds the router, once there is one.
        gate: Told what answers cost.
        keep_alive_s: Longest silence in a stream.
        strict: Refuse request fields that nobody knows.
    """

    def __init__(
        self, readiness: Readiness, gate: Gate, keep_alive_s: float, *, strict: bool
    ) -> None:
        self._strict = strict
        self._readiness = readiness
        self._gate = gate
        self._keep_alive_s = keep_alive_s
        self._created = int(time.time())

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, in one piece or streamed."""
        await self._gate.chat(request)
        chat = wire.parse_chat(await _json(request), strict=self._strict)
        return await _unless_gone(request, self._answer(chat, request, ChatWording))

    async def complete(self, request: Request) -> Response:
        """Answer prompts in OpenAI's older format."""
        await self._gate.chat(request)
        chats = completions.parse(await _json(request)).chats(strict=self._strict)
        if len(chats) == 1:
            return await _unless_gone(request, self._answer(chats[0], request, TextWording))
        return await _unless_gone(request, self._answer_all(chats, request))

    async def embed(self, request: Request) -> Response:
        """Embed texts with the encoder of task descriptions."""
        await self._gate.chat(request)
        body = await _json(request)
        asked = wire.parse(body, embeddings.EmbeddingRequest, strict=self._strict)
        router = self._readiness.router
        served = router.model
        if asked.model not in (served.encoder, served.name, *served.aliases):
            raise UnknownModel(
                f"no encoder {asked.model[:80]!r} is served here; use {served.encoder!r}",
                param="model",
            )
        rows, n_tokens = await router.embed(asked.input)
        if asked.dimensions not in (None, rows.shape[1]):
            raise InvalidRequest(
                f"the encoder has {rows.shape[1]} dimensions; leave dimensions out",
                param="dimensions",
            )
        self._gate.spend(tenant_of(request), wire.Usage.of(n_tokens, 0))
        return JSONResponse(embeddings.body_of(asked, rows, n_tokens))

    async def models(self, request: Request) -> wire.ModelList:
        """List what a request may name as its model."""
        names = await self._readiness.router.models(tenant_of(request))
        return wire.ModelList(
            data=[wire.ModelCard(id=name, created=self._created) for name in names]
        )

    async def model(self, request: Request, model: str) -> wire.ModelCard:
        """Look one of them up."""
        if not await self._readiness.router.has_model(model, tenant_of(request)):
            raise UnknownModel(f"no model {model[:80]!r} is served here", param="model")
        return wire.ModelCard(id=model, created=self._created)

    async def live(self) -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "ok"}

    async def ready(self) -> JSONResponse:
        """Say whether requests are answered, and if not, what is going on."""
        ready, phase = self._readiness.is_ready, self._readiness.phase
        if ready and not await self._gate.is_store_reachable():
            ready, phase = False, "the adapter library can't be reached"
        body = {"status": "ok" if ready else "unavailable", "phase": phase}
        return JSONResponse(body, 200 if ready else 503)

    async def _answer(
        self, chat: wire.ChatRequest, request: Request, wording: type[ChatWording]
    ) -> Response:
        reply = await self._reply(chat, request, wording)
        if chat.stream:
            events = await reply.begin(self._keep_alive_s)
            return EventStream(events, reply.headers())
        return JSONResponse(await reply.whole(), headers=reply.headers())

    async def _answer_all(self, chats: list[wire.ChatRequest], request: Request) -> Response:
        """Answer prompts side by side; the first one's adapter is told, as all have one task."""
        replies = [await self._reply(chat, request, TextWording) for chat in chats]
        try:
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(reply.whole()) for reply in replies]
        except ExceptionGroup as failed:  # the group has ended the others: nobody would read them
            raise failed.exceptions[0] from None
        bodies = [answer.result() for answer in answers]
        choices = [choice for body in bodies for choice in body["choices"]]
        counts = [body["usage"] for body in bodies]
        body = bodies[0] | {
            "choices": [choice | {"index": index} for index, choice in enumerate(choices)],
            "usage": {kind: sum(count[kind] for count in counts) for kind in counts[0]},
        }
        return JSONResponse(body, headers=replies[0].headers())

    async def _reply(
        self, chat: wire.ChatRequest, request: Request, wording: type[ChatWording]
    ) -> Reply:
        router = self._readiness.router
        caller = caller_of(request)
        answer = await router.chat(chat, caller)

        def report(outcome: Outcome) -> None:
            self._gate.spend(caller.tenant, outcome.usage)
            request.state.outcomes.append(outcome)

        told = wording(chat, answer.fingerprint)
        return Reply(answer, told, n=chat.n or 1, report=report)


async def _json(request: Request) -> bytes:
    """The body, if it says that it is JSON: a browser can't say so for a stranger's page."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send the body with Content-Type: application/json")
    return await request.body()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Finish *work*, or cancel it when the client goes away."""
    async with Watch(request.receive):
        return await work
    return await _gone()


async def _gone(*_: object) -> Response:
    """The answer to a client that left before it had sent its request, or read the answer."""
    # nginx's word for it; it appears in the access log only.
    return Response(status_code=499)


async def _report_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return no_such_path(request.scope)
    told = error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        told = f"{request.method} is not for this path; use {allowed}"
    detail = wire.ErrorDetail(message=told, type="invalid_request_error")
    body = wire.ErrorBody(error=detail).model_dump()
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _report_invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own check of parameters and bodies, in OpenAI's shape and status."""
    assert isinstance(error, RequestValidationError)
    return await _report(request, wire.invalid(error.errors(), skip=1))


async def _report(request: Request, error: Exception) -> Response:
    fault, body = fault_of(error)
    if fault.status in (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY):
        logger.error("request %s failed: %s", request.state.request_id, error)
    trace = getattr(request.state, "trace", None)
    headers = headers_of(error) | ({"X-T2L-Trace": trace} if trace else {})
    return JSONResponse(body.model_dump(), fault.status, headers=headers)
