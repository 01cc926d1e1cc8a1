"""Calls of tools: the form that they must have, and how they are read off an answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from t2l_router.chat_format import CALL_CLOSING, CALL_OPENING
from t2l_router.engines.base import Delta, ToolCall


def call_schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON Schema of a call of one of some tools."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                # What is not declared is no argument; a small model invents some if it may.
                "arguments": {"type": "object", "additionalProperties": False}
                | (tool["function"].get("parameters") or {"additionalProperties": True}),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


class ToolReader:
    """
    Turns one choice's text into tool calls, where it is one.

    Args:
        must_call: The whole text is a call without tags, as `call_schema` enforces it; else a text
            that begins with the opening tag is one or several calls.
        names: Of the tools.
    """

    def __init__(self, *, must_call: bool, names: frozenset[str]) -> None:
        self._must_call = must_call
        self._names = names
        self._held = ""
        self._is_text = False

    def feed(self, delta: Delta) -> Delta:
        """Pass text on, hold back what may be a call, and put calls on the last piece."""
        if self._is_text:
            return delta
        self._held += delta.text
        start = self._held.lstrip()
        may_be_call = self._must_call or CALL_OPENING.startswith(start[: len(CALL_OPENING)])
        if may_be_call and not delta.finish_reason:
            return replace(delta, text="")
        calls = self._calls(start) if may_be_call else ()
        if calls:
            return replace(delta, text="", finish_reason="tool_calls", tool_calls=calls)
        self._is_text = True
        return replace(delta, text=self._held)

    def _calls(self, text: str) -> tuple[ToolCall, ...]:
        """The calls in a text; none if any part of it is something else."""
        if self._must_call:
            parts = [text]
        else:
            parts = [
                part.replace(CALL_CLOSING, "") for part in text.split(CALL_OPENING) if part.strip()
            ]
        calls = []
        for part in parts:
            try:
                found = json.loads(part)
                name, arguments = found["name"], found["arguments"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return ()
            if name not in self._names or not isinstance(arguments, dict):
                return ()
            calls.append(ToolCall(f"call_{uuid4().hex[:24]}", name, json.dumps(arguments)))
        return tuple(calls)
