"""The OpenAI-compatible HTTP API: bytes to a request, an answer to bytes, errors to statuses."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Lifespan

from adapters_store.errors import StoreError
from t2l_router import wire
from t2l_router.describe import HEADER
from t2l_router.errors import T2LError, UnknownModel
from t2l_router.faults import fault_of, headers_of
from t2l_router.gate import Gate, tenant_of
from t2l_router.middleware import BodyLimitMiddleware, RequestIdMiddleware
from t2l_router.readiness import Readiness
from t2l_router.reply import Outcome, Reply
from t2l_router.router import Caller

logger = logging.getLogger(__name__)


def create_app(
    readiness: Readiness,
    *,
    max_body_bytes: int,
    keep_alive_s: float,
    gate: Gate | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
) -> ASGIApp:
    """
    Build the application.

    Args:
        readiness: Holds the router, once there is one.
        max_body_bytes: Largest request body.
        keep_alive_s: Longest silence in a stream.
        gate: Lets requests in; None lets all in.
        lifespan: Entered before the first request, left after the last.
    """
    app = FastAPI(title="t2l", version=version("t2l"), lifespan=lifespan)
    gate = gate or Gate()
    api = Api(readiness, gate, keep_alive_s)
    may_look = [Depends(gate.look)]
    chat_body = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": wire.ChatRequest.model_json_schema()}},
        }
    }
    app.add_api_route(
        "/v1/chat/completions",
        api.chat,
        methods=["POST"],
        dependencies=[Depends(gate.chat)],
        openapi_extra=chat_body,
        responses={200: {"model": wire.ChatCompletion}},
    )
    app.add_api_route(
        "/v1/models", api.models, dependencies=may_look, response_model=wire.ModelList
    )
    app.add_api_route(
        "/v1/models/{model:path}", api.model, dependencies=may_look, response_model=wire.ModelCard
    )
    app.add_api_route("/health/live", api.live)
    app.add_api_route("/health/ready", api.ready)
    app.add_exception_handler(HTTPException, _report_http)
    app.add_exception_handler(T2LError, _report)
    app.add_exception_handler(StoreError, _report)
    app.add_exception_handler(Exception, _report)
    # Outside FastAPI, so that its own answer to an unexpected error has an id too.
    return RequestIdMiddleware(BodyLimitMiddleware(app, max_body_bytes))


class Api:
    """
    The routes.

    Args:
        readiness: Holds the router, once there is one.
        gate: Told what answers cost.
        keep_alive_s: Longest silence in a stream.
    """

    def __init__(self, readiness: Readiness, gate: Gate, keep_alive_s: float) -> None:
        self._readiness = readiness
        self._gate = gate
        self._keep_alive_s = keep_alive_s
        self._created = int(time.time())

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, in one piece or streamed."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "send the body with Content-Type: application/json")
        chat = wire.parse_chat(await request.body())
        caller = Caller(tenant_of(request), request.headers.get(HEADER))
        return await _unless_gone(request, self._answer(chat, caller))

    async def models(self, request: Request) -> wire.ModelList:
        """List what a request may name as its model."""
        names = self._readiness.router.models(tenant_of(request))
        return wire.ModelList(
            data=[wire.ModelCard(id=name, created=self._created) for name in names]
        )

    async def model(self, request: Request, model: str) -> wire.ModelCard:
        """Look one of them up."""
        if model not in self._readiness.router.models(tenant_of(request)):
            raise UnknownModel(f"no model {model[:80]!r} is served here", param="model")
        return wire.ModelCard(id=model, created=self._created)

    async def live(self) -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "ok"}

    async def ready(self) -> JSONResponse:
        """Say whether requests are answered, and if not, what is going on."""
        ready = self._readiness.is_ready
        body = {"status": "ok" if ready else "unavailable", "phase": self._readiness.phase}
        return JSONResponse(body, 200 if ready else 503)

    async def _answer(self, chat: wire.ChatRequest, caller: Caller) -> Response:
        router = self._readiness.router
        answer = await router.chat(chat, caller)

        def report(outcome: Outcome) -> None:
            self._gate.spend(caller.tenant, outcome.usage)

        reply = Reply(chat, answer, router.model.fingerprint, report=report)
        if chat.stream:
            events = await reply.begin(self._keep_alive_s)
            return StreamingResponse(
                events, media_type="text/event-stream", headers=reply.headers()
            )
        completion = await reply.whole()
        return JSONResponse(completion.model_dump(), headers=reply.headers())


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Finish *work*, or cancel it when the client goes away."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        # 499 is nginx's word for it; it appears in the access log only.
        return working.result() if working.done() else Response(status_code=499)
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _report_http(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)
    detail = wire.ErrorDetail(message=error.detail, type="invalid_request_error")
    body = wire.ErrorBody(error=detail).model_dump()
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _report(request: Request, error: Exception) -> Response:
    fault, body = fault_of(error)
    if fault.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request %s failed: %s", request.state.request_id, error)
    return JSONResponse(body.model_dump(), fault.status, headers=headers_of(error))
