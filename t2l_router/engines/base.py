"""The engine's contract: what produces tokens, whatever it runs on."""

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adapters_store.identity import AdapterId

if TYPE_CHECKING:  # what decodes must be importable without the server's libraries
    from t2l_router.wire import ChatRequest, FinishReason, Offer, Usage


class Weights(Protocol):
    """An adapter's tensors, as far as those need to know who only pass them on."""

    @property
    def adapter_id(self) -> AdapterId:
        """Their content id."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory they hold."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """
    An adapter for an engine to use.

    Args:
        adapter_id: Its content id, the only name under which an engine sees it.
        weights: Its tensors, for engines that are handed them.
    """

    adapter_id: AdapterId
    weights: Weights


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """
    The weights of an adapter that the engine gets from the library by its id.

    Args:
        adapter_id: Their content id.
        nbytes: What they hold here, which is nothing.
    """

    adapter_id: AdapterId
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """
    How likely a token was, before temperature and other sampling parameters.

    Args:
        text: The token's text; a part of a character shows as a replacement character.
        data: The token's bytes.
        logprob: Natural logarithm of its probability.
        top: The likeliest tokens in its place, the likeliest first; they have none of their own.
    """

    text: str
    data: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """
    A function that the model wants called.

    Args:
        id: Unique in the answer.
        name: One of the request's tools.
        arguments: JSON text of an object.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """
    A piece of an answer.

    Args:
        text: What it adds; whole characters, perhaps none.
        finish_reason: Set on the last piece of each choice, and only there.
        usage: Token counts of all choices, on the very last piece.
        index: The choice it belongs to, from 0 to the request's ``n`` - 1.
        logprobs: Of the tokens it stands for, if the request asks for them.
        tool_calls: Whole calls, on the last piece of a choice that ends with ``tool_calls``.
    """

    text: str = ""
    finish_reason: "FinishReason | None" = None
    usage: "Usage | None" = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """
    How an engine is doing.

    Args:
        ok: Whether it answers requests.
        running: Requests being answered.
        waiting: Requests in the queue.
        resident: Adapters that need no loading.
    """

    ok: bool
    running: int
    waiting: int
    resident: Collection[AdapterId]


class Engine(Protocol):
    """Answers chat requests with the base model and at most one adapter each."""

    @property
    def offers(self) -> "frozenset[Offer]":
        """What requests may ask for besides one plain text; asked for anything else, they fail."""

    def stream_chat(
        self, request: "ChatRequest", adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """
        Answer a request piece by piece.

        Closing the iterator frees what the request holds, within a step.

        Args:
            request: What to answer.
            adapter: The adapter to answer with; None is the base model.

        Raises:
            RequestError: On the first piece: the request can't be answered as it is.
            AdapterError: On the first piece: the engine can't get the adapter.
            EngineBusy: On the first piece: the queue is full.
            EngineUnreachable: On the first piece: there is no server to ask.
            EngineFailed: At any piece.
        """

    async def ensure(self, adapter: AdapterRef) -> None:
        """
        Make an adapter ready for use, as far as there is room.

        Raises:
            InvalidAdapter: It doesn't fit this engine's base model, or the engine can't get it.
            EngineError: The engine could not load it.
        """

    def health(self) -> EngineHealth:
        """Say how the engine is doing, at once."""

    async def close(self) -> None:
        """End what runs and give back what the engine holds."""


@runtime_checkable
class MeasuresLoss(Protocol):
    """An engine that can say how well it predicts plain text."""

    async def neutral_loss(self, adapter: AdapterRef | None) -> float | None:
        """
        Measure the mean next-token loss on a fixed plain text, in nats.

        Args:
            adapter: With which adapter; None is the base model.

        Returns:
            None if there is no room for the adapter just now.

        Raises:
            InvalidAdapter: The adapter doesn't fit this engine's base model.
            EngineFailed: The engine could not do it.
        """
