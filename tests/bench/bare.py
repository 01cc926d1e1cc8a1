"""The same answers as ``t2l serve --engine echo`` from FastAPI alone: the baseline."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

app = FastAPI()
COMMON = {"id": "chatcmpl-0", "created": 0, "model": "echo"}


@app.post("/v1/chat/completions")
async def chat(body: dict[str, Any]) -> Any:
    """Repeat the last message word by word."""
    words = ["[base]", *body["messages"][-1]["content"].split()]
    if body.get("stream"):
        return StreamingResponse(events(words), media_type="text/event-stream")
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse(COMMON | {"object": "chat.completion", "choices": [choice]})


async def events(words: list[str]) -> AsyncIterator[str]:
    """One event a word."""
    for word in words:
        choice = {"index": 0, "delta": {"content": f" {word}"}, "finish_reason": None}
        chunk = COMMON | {"object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, ws="none")
