"""
The fastest upstream there can be: whatever it is asked, it answers the same eight words.

    python -m tests.bench.upstream PORT

It speaks just enough HTTP for the vLLM engine, so that what a router costs isn't hidden behind what
a server costs.
"""

import asyncio
import json
import sys

WORDS = 8


def _event(choices: list[dict], **more: object) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices}
    data = f"data: {json.dumps(chunk | more)}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _answer() -> bytes:
    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    usage = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
    done = b"data: [DONE]\n\n"
    parts = [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        _event(choice({"role": "assistant", "content": ""})),
        *(_event(choice({"content": " word"})) for _ in range(WORDS)),
        _event(choice({"content": ""}, "stop")),
        _event([], usage=usage),
        f"{len(done):x}\r\n".encode() + done + b"\r\n",
        b"0\r\n\r\n",
    ]
    return b"".join(parts)


_PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_STREAM = _answer()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length:" in head:
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
            writer.write(_STREAM if b"/chat/completions" in head else _PLAIN)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
