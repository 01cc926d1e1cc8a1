"""Server-sent events, written and read."""

import json
from collections.abc import Iterator

from pydantic import BaseModel

from t2l_router.wire.answers import ErrorBody, ErrorDetail

DONE = "[DONE]"
KEEP_ALIVE = b": ping\n\n"


def sse(data: BaseModel | str) -> bytes:
    """Encode one server-sent event; a model loses the fields that were not set."""
    text = data if isinstance(data, str) else data.model_dump_json(exclude_unset=True)
    # A newline inside data ends the line, so each line needs its own field name.
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"{lines}\n".encode()


class SseDecoder:
    """Finds the data of events in a byte stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[str]:
        """Yield the data of each event that is now complete; comments are skipped."""
        # CRLF and LF both end lines; a CR at the border waits for its LF.
        *events, self._rest = (self._rest + received).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [
                line.removeprefix(b"data:").removeprefix(b" ")
                for line in event.split(b"\n")
                if line.startswith(b"data:")
            ]
            if lines:
                yield b"\n".join(lines).decode()


def error_of(data: str) -> ErrorDetail | None:
    """The error that an event's data or an error response carries, if it is one."""
    try:
        return ErrorBody.model_validate(json.loads(data)).error
    except (ValueError, RecursionError):
        return None
