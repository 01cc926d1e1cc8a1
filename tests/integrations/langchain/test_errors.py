"""Failures as LangChain's users catch them."""

import json

import pytest
from langchain_core import exceptions as core

from integrations.langchain import AdapterUnavailable, ChatT2L
from t2l_router.errors import CallRefused
from tests.answers import send
from tests.integrations.langchain.played import facing, saying


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", core.ModelInvalidRequestError),
        (400, "context_length_exceeded", core.ContextOverflowError),
        (401, "invalid_api_key", core.ModelAuthenticationError),
        (403, None, core.ModelPermissionDeniedError),
        (404, "model_not_found", core.ModelNotFoundError),
        (408, None, core.ModelTimeoutError),
        (413, "request_too_large", core.ModelInvalidRequestError),
        (429, "engine_busy", core.ModelRateLimitError),
        (500, None, core.ModelAPIError),
        (503, "adapter_unavailable", AdapterUnavailable),
        (504, None, core.ModelTimeoutError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(status, code, kind, stream):
    """Every refusal is LangChain's error of that kind, and ours with status and code."""
    body = json.dumps({"error": {"message": "why", "type": "t", "param": None, "code": code}})

    with (
        facing(lambda handler, _: send(handler, status, body.encode()), max_retries=0) as llm,
        pytest.raises(kind, match="why") as caught,
    ):
        _ = list(llm.stream("x")) if stream else llm.invoke("x")

    assert isinstance(caught.value, CallRefused)
    assert isinstance(caught.value, core.ModelError)
    assert (caught.value.status, caught.value.code) == (status, code)


async def test_errors_asynchronous(llm):
    """The asynchronous half raises the same."""
    with pytest.raises(core.ModelNotFoundError):
        await llm.ainvoke("x", model="none")
    with pytest.raises(core.ModelNotFoundError):
        _ = [chunk async for chunk in llm.astream("x", model="none")]
    if not llm.router:
        await llm.client.aclose()


def test_unreachable():
    """Where nobody listens, a fallback for connection errors takes over."""
    away = ChatT2L(model="m", base_url="http://127.0.0.1:1", max_retries=0)
    with pytest.raises(core.ModelConnectionError, match="t2l serve"):
        away.invoke("x")

    with saying({"content": "here"}) as (near, _):
        chain = away.with_fallbacks([near], exceptions_to_handle=(core.ModelConnectionError,))
        assert chain.invoke("x").content == "here"
