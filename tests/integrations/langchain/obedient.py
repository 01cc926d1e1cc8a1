"""An engine for suites that expect a model to do what the prompt says."""

import json
import re
from dataclasses import replace

from t2l_router.engines.echo import EchoEngine
from t2l_router.wire import ChatRequest


class ObedientEngine(EchoEngine):
    """
    An echo whose JSON holds what was said.

    Of a tool's arguments, strings are the message's text and integers its first number; in JSON
    mode the keys are those that the message has in single quotes.
    """

    async def stream_chat(self, request, adapter):
        """Answer as the echo does, with the blanks filled in."""
        said = request.messages[-1].content or ""
        form = request.response_format
        if form is not None and form.type == "json_object":
            keys = re.findall(r"'(\w+)'", said)
            schema = {"type": "object", "properties": {key: {"const": said} for key in keys}}
            wanted = {"type": "json_schema", "json_schema": {"name": "keys", "schema": schema}}
            fields = request.model_dump(by_alias=True, exclude_unset=True)
            request = ChatRequest.model_validate(fields | {"response_format": wanted})
        async for delta in super().stream_chat(request, adapter):
            calls = [
                replace(call, arguments=filled(call.arguments, said)) for call in delta.tool_calls
            ]
            yield replace(delta, tool_calls=tuple(calls))


def filled(arguments, said):
    """A call's arguments, as JSON text, from what was said."""
    number = re.search(r"\d+", said)
    blanks = {"": said, 0: int(number[0]) if number else 0}
    return json.dumps({name: blanks[blank] for name, blank in json.loads(arguments).items()})
