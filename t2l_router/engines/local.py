"""The in-process engine: chat requests in, answers from a transformers model out."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2l_router import chat_format
from t2l_router.engines.base import AdapterRef, Delta, EngineHealth
from t2l_router.engines.batch import Batch
from t2l_router.engines.decoding import Prompt, Vocabulary
from t2l_router.engines.jobs import Job
from t2l_router.engines.kv import KvBank
from t2l_router.engines.neutral import TEXT, neutral_loss
from t2l_router.engines.sampling import SamplingParams
from t2l_router.engines.slots import SlotBank
from t2l_router.engines.structure import JsonConstraint, Structures
from t2l_router.engines.tools import ToolReader, call_schema
from t2l_router.engines.worker import Worker
from t2l_router.errors import InvalidRequest, PromptTooLong
from t2l_router.lora import LoraSpec
from t2l_router.wire import ChatRequest, Offer, Usage

_MAX_DIGITS = 10
_READ_TOGETHER = {False: 1, True: 8}  # on a GPU short prompts are read together


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """
    What the engine takes on, and what it assumes where a request says nothing.

    Args:
        slots: Adapters resident at once.
        max_running: Requests answered at once.
        max_waiting: Requests in the queue.
        max_tokens: Longest answer, unless a request names its own limit.
        temperature: Sampling temperature, unless a request names one.
        kv_memory_mib: Memory for keys and values: of running requests, and of earlier turns.
    """

    slots: int = 16
    max_running: int = 8
    max_waiting: int = 64
    max_tokens: int = 512
    temperature: float = 0.2
    kv_memory_mib: int = 2_048


class LocalEngine:
    """
    Answers with a model in this process.

    Args:
        model: In evaluation mode; its target modules are replaced.
        tokenizer: Its tokenizer.
        spec: The largest adapters it will be given.
        limits: What it takes on.
    """

    offers: frozenset[Offer] = frozenset({"choices", "logprobs", "tools", "json"})

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        spec: LoraSpec,
        limits: EngineLimits,
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        config = model.config.get_text_config()
        self._max_context: int = config.max_position_embeddings
        self._vocab_size: int = config.vocab_size
        bank = SlotBank(model, spec, limits.slots)
        self._model, self._bank = model, bank
        self._kv = KvBank(
            model,
            max_rows=limits.max_running,
            max_length=self._max_context,
            budget_bytes=limits.kv_memory_mib << 20,
        )
        vocabulary = Vocabulary(model, tokenizer)
        self._structures = Structures(tokenizer, vocab_size=vocabulary.size, ends=vocabulary.ends)
        on_cuda = model.device.type == "cuda"
        self._worker = Worker(
            Batch(
                model,
                bank,
                self._kv,
                read_together=_READ_TOGETHER[on_cuda],
                use_graphs=on_cuda,
            ),
            bank,
            vocabulary,
            max_running=limits.max_running,
            max_waiting=limits.max_waiting,
        )

    async def stream_chat(
        self, request: ChatRequest, adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """Answer a request piece by piece; see `Engine.stream_chat`."""
        self._worker.check_room()
        # In a thread: rendering a long conversation would hold up the event loop.
        prompts = await asyncio.to_thread(self._prompts, request)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Delta | Exception]()
        jobs = [Job(prompt, adapter, loop, pieces) for prompt in prompts]
        try:
            for job in jobs:
                self._worker.submit(job)
            unfinished = len(jobs)
            readers = _tool_readers(request)
            while unfinished:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                if readers:
                    piece = readers[piece.index].feed(piece)
                if piece.finish_reason:
                    unfinished -= 1
                if not unfinished:
                    n_tokens = sum(job.n_tokens for job in jobs)
                    piece = replace(piece, usage=Usage.of(len(prompts[0].ids), n_tokens))
                yield piece
        finally:
            for job in jobs:
                self._worker.cancel(job)

    async def ensure(self, adapter: AdapterRef) -> None:
        """Copy an adapter into a slot, unless all are in use; see `Engine.ensure`."""
        await asyncio.wrap_future(self._worker.load(adapter))

    async def neutral_loss(self, adapter: AdapterRef | None) -> float | None:
        """Measure the next-token loss on plain text; see `MeasuresLoss`."""
        tokens = self._tokenizer(TEXT, truncation=True, max_length=self._max_context)
        ids = torch.tensor(tokens.input_ids, device=self._model.device)

        def measure(slot: int) -> float:
            return neutral_loss(self._model, self._bank, slot, ids)

        return await asyncio.wrap_future(self._worker.visit(adapter, measure, can_wait=True))

    def health(self) -> EngineHealth:
        """Say how the engine is doing."""
        return self._worker.health()

    async def close(self) -> None:
        """End running answers with an error, and then the thread."""
        await asyncio.to_thread(self._worker.close)

    def _prompts(self, request: ChatRequest) -> list[Prompt]:
        """One prompt a choice; they differ in what they draw, and share the reading."""
        prompt = self._prompt(request)
        constraint = self._constraint(request)
        prompts = []
        for index in range(request.n or 1):
            seed = prompt.sampling.seed
            sampling = replace(prompt.sampling, seed=None if seed is None else seed + index)
            own = constraint and constraint.copy()
            prompts.append(replace(prompt, sampling=sampling, index=index, constraint=own))
        return prompts

    def _prompt(self, request: ChatRequest) -> Prompt:
        turns = [
            turn.model_dump(exclude_none=True, include={"role", "tool_calls", "tool_call_id"})
            | {"content": turn.content or ""}
            for turn in request.messages
        ]
        ids = chat_format.render(self._tokenizer, turns, tools=_tools(request))
        if not ids:
            raise InvalidRequest("the messages are empty", param="messages")
        room = self._max_context - len(ids)
        wanted = request.token_limit or 1
        if room < wanted:
            raise PromptTooLong(
                f"the prompt has {len(ids):,} tokens and the answer may have {wanted:,}; together "
                f"they must fit into {self._max_context:,}",
                param="messages",
            )
        max_tokens = request.token_limit or min(room, self._limits.max_tokens)
        if not self._kv.fits(1, len(ids) + max_tokens):
            raise PromptTooLong(
                f"the prompt has {len(ids):,} tokens and the answer may have {max_tokens:,}; the "
                f"engine's kv_memory_mib of {self._limits.kv_memory_mib:,} can't hold them",
                param="messages",
            )
        return Prompt(
            ids=ids,
            sampling=self._sampling(request),
            stop=request.stop or [],
            max_tokens=max_tokens,
            ignore_eos=bool(request.ignore_eos),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            salt=request.cache_salt,
        )

    def _constraint(self, request: ChatRequest) -> JsonConstraint | None:
        if _must_call(request):
            return self._structures.json(call_schema(_tools(request)), param="tools")
        form = request.response_format
        if form is None or form.type == "text":
            return None
        schema = form.json_schema.definition if form.json_schema else {"type": "object"}
        return self._structures.json(schema, param="response_format")

    def _sampling(self, request: ChatRequest) -> SamplingParams:
        temperature = request.temperature
        return SamplingParams(
            temperature=self._limits.temperature if temperature is None else temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=max(0, request.top_k or 0),
            min_p=request.min_p or 0.0,
            repetition_penalty=request.repetition_penalty or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=self._logit_bias(request.logit_bias or {}),
            seed=request.seed,
        )

    def _logit_bias(self, biases: dict[str, float]) -> dict[int, float]:
        for token in biases:
            # The length first: int() refuses thousands of digits with an error of its own.
            is_id = len(token) < _MAX_DIGITS and token.isascii() and token.isdigit()
            if not is_id or int(token) >= self._vocab_size:
                raise InvalidRequest(
                    f"logit_bias: {token[:20]!r} is no token id; they go from 0 to "
                    f"{self._vocab_size - 1}",
                    param="logit_bias",
                )
        return {int(token): bias for token, bias in biases.items()}


def _tools(request: ChatRequest) -> list[dict[str, Any]]:
    """The tools that may be called, in the form that chat templates take."""
    choice = request.tool_choice
    if choice == "none":
        return []
    return [
        tool.model_dump(exclude_none=True)
        for tool in request.tools or ()
        if isinstance(choice, str | None) or tool.function.name == choice.function.name
    ]


def _must_call(request: ChatRequest) -> bool:
    return request.tool_choice not in (None, "none", "auto")


def _tool_readers(request: ChatRequest) -> list[ToolReader]:
    """What reads calls off the choices, one each; none if there are no tools."""
    names = frozenset(tool["function"]["name"] for tool in _tools(request))
    must_call = _must_call(request)
    return [ToolReader(must_call=must_call, names=names) for _ in range(request.n or 1) if names]
