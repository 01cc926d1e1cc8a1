"""
Answers without any model, for tests, demos and for trying a client against the API.

`EchoEngine` repeats what it was asked and says which adapter it was given; `echo_adapters` makes
the adapters it takes. They depend on nothing but their input.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef, Delta, EngineHealth, TokenLogprob, ToolCall
from t2l_router.engines.echo_schema import smallest
from t2l_router.engines.text import StopStrings
from t2l_router.errors import EngineBusy
from t2l_router.wire import ChatRequest, ChosenTool, FinishReason, Offer, Usage

_MAX_RESIDENT = 1_024  # adapters it says it holds


@dataclass(frozen=True, slots=True)
class EchoWeights:
    """An adapter without tensors."""

    adapter_id: AdapterId
    nbytes: int


class EchoEngine:
    """
    Streams ``[<adapter id>] <the last message>`` word by word; without an adapter, ``[base]``.

    A token is a word. Asked for JSON or with tools, it gives the smallest that fits the schema.

    Args:
        first_delay_s: Time before the first word, as if the prompt were read.
        delay_s: Time before each further word.
        max_running: Requests answered at once; more are refused.
    """

    offers: frozenset[Offer] = frozenset({"choices", "logprobs", "tools", "json"})

    def __init__(
        self, *, first_delay_s: float = 0.0, delay_s: float = 0.0, max_running: int = 10_000
    ) -> None:
        self._first_delay_s = first_delay_s
        self._delay_s = delay_s
        self._max_running = max_running
        self._running = 0
        self._resident: dict[AdapterId, None] = {}

    async def stream_chat(
        self, request: ChatRequest, adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """Answer with the last message's words."""
        if self._running >= self._max_running:
            raise EngineBusy(f"{self._running} requests are being answered; try again later")
        self._running += 1
        try:
            n_prompt = sum(len((message.content or "").split()) for message in request.messages)
            if call := _called(request):
                yield Delta("", "tool_calls", Usage.of(n_prompt, 1), tool_calls=(call,))
                return
            words = _words(request, adapter)
            n_choices = request.n or 1
            limit = min(request.token_limit or len(words), len(words))
            stops = StopStrings(request.stop or [])
            n_words = 0
            for word in words[:limit]:
                if delay_s := self._delay_s if n_words else self._first_delay_s:
                    await asyncio.sleep(delay_s)
                spoken = f" {word}" if n_words else word
                text = stops.feed(spoken)
                n_words += 1
                logprobs = (_certain(spoken, request),) if request.logprobs else ()
                for index in range(n_choices):
                    yield Delta(text, index=index, logprobs=logprobs)
                if stops.stopped:
                    break
            is_whole = stops.stopped or limit == len(words)
            rest = stops.flush()
            end: FinishReason = "stop" if is_whole else "length"
            for index in range(n_choices - 1):
                yield Delta(rest, end, index=index)
            usage = Usage.of(n_prompt, n_words * n_choices)
            yield Delta(rest, end, usage, index=n_choices - 1)
        finally:
            self._running -= 1

    async def ensure(self, adapter: AdapterRef) -> None:
        """Remember the adapter, and forget the one named longest ago if they are many."""
        self._resident.pop(adapter.adapter_id, None)
        self._resident[adapter.adapter_id] = None
        if len(self._resident) > _MAX_RESIDENT:
            del self._resident[next(iter(self._resident))]

    def health(self) -> EngineHealth:
        """Say what is going on."""
        return EngineHealth(
            ok=True, running=self._running, waiting=0, resident=tuple(self._resident)
        )

    async def close(self) -> None:
        """Hold nothing, so give nothing back."""


def _words(request: ChatRequest, adapter: AdapterRef | None) -> list[str]:
    """What is said: the last message, or JSON where that is asked for."""
    form = request.response_format
    said = request.messages[-1].content or ""
    if form is not None and form.type != "text":
        schema = form.json_schema.definition if form.json_schema else {}
        value = smallest(schema) if form.json_schema else {"said": said}
        return json.dumps(value).split(" ")
    return [f"[{adapter.adapter_id if adapter else 'base'}]", *said.split()]


def _called(request: ChatRequest) -> ToolCall | None:
    """The tool that must be called, or else the first, once: its result is answered in words."""
    tools, choice = request.tools or [], request.tool_choice
    if not tools or choice == "none" or request.messages[-1].role == "tool":
        return None
    wanted = choice.function.name if isinstance(choice, ChosenTool) else tools[0].function.name
    tool = next(tool.function for tool in tools if tool.function.name == wanted)
    call_id = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:24]
    return ToolCall(f"call_{call_id}", tool.name, json.dumps(smallest(tool.parameters or {}) or {}))


def _certain(word: str, request: ChatRequest) -> TokenLogprob:
    """An echo has no doubt."""
    only = TokenLogprob(word, word.encode(), 0.0)
    return TokenLogprob(word, word.encode(), 0.0, (only,) if request.top_logprobs else ())
