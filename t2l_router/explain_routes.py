"""Routes about decisions: why a request would be served so, and how good an answer was."""

from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2l_router import wire
from t2l_router.decision import explanation_of
from t2l_router.errors import InvalidRequest
from t2l_router.gate import Gate, caller_of, tenant_of
from t2l_router.readiness import Readiness


class Feedback(BaseModel):
    """The body of ``POST /v1/t2l/feedback``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trace: str = Field(min_length=1, max_length=64, description="X-T2L-Trace of the answer.")
    rating: Literal[-1, 0, 1] = Field(description="1 is good, -1 bad, 0 takes a rating back.")


def add_explain_routes(app: FastAPI, readiness: Readiness, gate: Gate, *, strict: bool) -> None:
    """
    Add the routes.

    Args:
        app: Gets them.
        readiness: Holds the router, once there is one.
        gate: Lets requests in.
        strict: Refuse fields of a request that nobody knows.
    """

    async def explain(request: Request) -> JSONResponse:
        """Say what would serve a chat request, and why; nothing is stored or answered."""
        chat = wire.parse_chat(await request.body(), strict=strict)
        decision = await readiness.router.explain(chat, caller_of(request))
        return JSONResponse(explanation_of(decision))

    async def feedback(request: Request) -> JSONResponse:
        """Judge the answer that a decision led to."""
        try:
            body = Feedback.model_validate_json(await request.body())
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            param = ".".join(map(str, fault["loc"])) or None
            raise InvalidRequest(
                f"{param or 'the body'}: {fault['msg']}; send trace and rating (-1, 0 or 1)",
                param=param,
            ) from None
        entry = await readiness.router.rate(body.trace, body.rating, tenant=tenant_of(request))
        told: dict[str, Any] = {
            "trace": entry.trace,
            "rating": body.rating,
            "decision": entry.kind,
            "adapter": entry.adapter_id,
        }
        return JSONResponse(told)

    app.add_api_route(
        "/v1/t2l/explain",
        explain,
        methods=["POST"],
        dependencies=[Depends(gate.chat)],
        openapi_extra=_json_body(wire.ChatRequest),
    )
    app.add_api_route(
        "/v1/t2l/feedback",
        feedback,
        methods=["POST"],
        dependencies=[Depends(gate.look)],
        openapi_extra=_json_body(Feedback),
    )


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": wire.body_schema(model)}}
    return {"requestBody": {"required": True, "content": content}}
