"""
A stand-in for a vLLM server: its wire format and its errors over an echo, on a real socket.

What a real one does is tested in ``tests/scale``. ``python -m tests.vllm_server PORT`` serves one.
"""

import asyncio
import json
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from adapters_store.identity import AdapterId
from t2l_router import wire
from t2l_router.cli.serve import listen
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.echo import EchoEngine, EchoWeights

BASE = "org/base"


def refusal(status: int, message: str, kind: str = "BadRequestError", param=None) -> JSONResponse:
    """vLLM's error body, whose code is a number."""
    error = {"message": message, "type": kind, "param": param, "code": status}
    return JSONResponse({"error": error}, status_code=status)


class VllmServer:
    """
    One server.

    Args:
        knows: Whether the resolver finds an adapter; None finds all.
        max_cpu_loras: Adapters it keeps loaded.
        delay_s: Time for each word.
        key: The API key it wants.
    """

    def __init__(
        self,
        *,
        knows: Callable[[str], bool] | None = None,
        max_cpu_loras: int = 16,
        delay_s: float = 0.0,
        key: str | None = None,
        max_model_len: int = 100_000,
    ) -> None:
        self.engine = EchoEngine(delay_s=delay_s)
        self.knows = knows or (lambda _: True)
        self.max_cpu_loras = max_cpu_loras
        self.key = key
        self.max_model_len = max_model_len
        self.loaded: OrderedDict[str, None] = OrderedDict()
        self.loads: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.running = 0
        self.is_well = True
        self.faults: list[Response | str] = []  # what the next requests get instead of an answer
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def health(self, _) -> Response:
        return Response(status_code=200 if self.is_well else 503)

    async def tokenize(self, request) -> Response:
        body = await request.json()
        return self._refused(body["model"]) or JSONResponse({"count": 1, "tokens": [1]})

    async def chat(self, request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        body = await request.json()
        self.bodies.append(body)
        self.asked[body["model"]] += 1
        if self.faults and not isinstance(self.faults[0], str):
            return self.faults.pop(0)
        if refused := self._refused(body["model"]):
            return refused
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if limit > self.max_model_len:
            return refusal(
                400,
                f"max_tokens={limit} cannot be greater than max_model_len="
                f"{self.max_model_len}. Please request fewer output tokens.",
                param="max_tokens",
            )
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    def _refused(self, model: str) -> Response | None:
        if model == BASE:
            return None
        if not self.knows(model):
            return refusal(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        if model not in self.loaded:
            self.loads[model] += 1
        self.loaded[model] = None
        self.loaded.move_to_end(model)
        if len(self.loaded) > self.max_cpu_loras:
            self.loaded.popitem(last=False)
        return None

    async def _events(self, body: dict):
        self.running += 1
        try:
            model = body["model"]
            name = AdapterId(model)
            adapter = None if model == BASE else AdapterRef(name, EchoWeights(name, 1))
            request = wire.parse_chat(json.dumps(body).encode())
            shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model}
            n_choices = request.n or 1
            for index in range(n_choices):
                first = {"role": "assistant", "content": ""}
                yield _event(shape, [_choice(index, first)])
            async for delta in self.engine.stream_chat(request, adapter):
                for choice in _choices(delta):
                    yield _event(shape, [choice])
                if self.faults and delta.text:
                    raise ConnectionAbortedError(self.faults.pop(0))
                usage = delta.usage
            yield _event(shape | {"usage": usage.model_dump()}, [])
            yield b"data: [DONE]\n\n"
        finally:
            self.running -= 1


def _choice(index, delta, reason=None, logprobs=None) -> dict:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _choices(delta) -> Iterator[dict]:
    """A delta as vLLM cuts it: calls in pieces, then the reason with nothing else."""
    logprobs = {"content": [_logprob(one) for one in delta.logprobs]} if delta.logprobs else None
    if delta.text:
        yield _choice(delta.index, {"content": delta.text}, logprobs=logprobs)
    for number, call in enumerate(delta.tool_calls):
        half = len(call.arguments) // 2
        begun = {"name": call.name, "arguments": ""}
        parts = [{"index": number, "id": call.id, "type": "function", "function": begun}]
        halves = (call.arguments[:half], call.arguments[half:])
        parts += [{"index": number, "function": {"arguments": text}} for text in halves]
        for part in parts:
            yield _choice(delta.index, {"tool_calls": [part]})
    if delta.finish_reason:
        yield _choice(delta.index, {"content": ""}, delta.finish_reason)


def _logprob(one) -> dict:
    told = {"token": one.text, "logprob": one.logprob, "bytes": list(one.data)}
    return told | {"top_logprobs": [_logprob(top) for top in one.top]}


def _event(shape: dict, choices: list[dict]) -> bytes:
    return f"data: {json.dumps(shape | {'choices': choices})}\n\n".encode()


@contextmanager
def served(server: VllmServer, *, port: int = 0) -> Iterator[VllmServer]:
    """Serve until the end of the block; ``server.url`` says where."""
    listening = listen("127.0.0.1", port)
    config = uvicorn.Config(
        server.app, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.005)
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield server
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


async def shows(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait until something has become true."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    uvicorn.run(VllmServer().app, port=int(sys.argv[1]), log_config=None, access_log=False)
