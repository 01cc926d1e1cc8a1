"""`ChatT2L`: the chat model."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import lru_cache
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils import from_env, secret_from_env
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from integrations.langchain.errors import as_langchain
from integrations.langchain.messages import PROVIDER, chunk_of, result_of, to_wire
from integrations.langchain.structured import Method, response_format, structured
from t2l_router.client import Client, HttpClient

DEFAULT_URL = "http://127.0.0.1:8000/v1"
_T2L_FIELDS = (
    "t2l_description", "t2l_examples", "t2l_adapter", "t2l_session", "t2l_required",
)  # fmt: skip
_SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")


class ChatT2L(BaseChatModel):
    """
    A base model that a task description adapts, per model, per chain or per call.

    Every field of a request may also be given per call or with ``bind``; None there takes it away.
    Errors are those of `integrations.langchain.errors`.
    The answer's ``response_metadata["t2l"]`` says which adapter served and why.

    Args:
        model: As ``/v1/models`` lists them; by default the first of them, the base model.
        t2l_description: The task, in a sentence; the answering adapter is made from it.
        t2l_examples: A few of its examples, ``{"input": ..., "output": ...}``, with a description
            or instead; for a server whose hypernetwork reads examples.
        t2l_adapter: An adapter's id or alias, instead of a description.
        t2l_session: Holds on to one adapter over a conversation's turns.
        t2l_required: Fail with `AdapterUnavailable` rather than have the base model answer.
        base_url: The server's address; else ``T2L_BASE_URL``, else this machine, port 8000.
        api_key: Else ``T2L_API_KEY``.
        timeout: Longest silence of the server, in seconds.
        max_retries: Further attempts where the server is unreachable, busy or broken.
        router: Answers in this process, without a server: ``build_router(Settings())``.

    Example:
        ``ChatT2L(t2l_description="Translate to French").invoke("Good morning").content``
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    t2l_description: str | None = None
    t2l_examples: list[dict[str, str]] | None = None
    t2l_adapter: str | None = None
    t2l_session: str | None = None
    t2l_required: bool | None = None

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request."""
    streaming: bool = False

    base_url: str = Field(default_factory=from_env("T2L_BASE_URL", default=DEFAULT_URL))
    api_key: SecretStr | None = Field(default_factory=secret_from_env("T2L_API_KEY", default=None))
    timeout: float | None = 60.0
    max_retries: int = Field(2, ge=0)
    default_headers: dict[str, str] = Field(default_factory=dict)
    router: Any = Field(None, exclude=True, repr=False)

    _first_model: str | None = PrivateAttr(None)

    @property
    def client(self) -> Client:
        """What carries the requests; its `close` gives the connections back."""
        if self.router is not None:
            # Imported late: an HTTP client needs no router.
            from t2l_router.inprocess import InProcessClient  # noqa: PLC0415

            return InProcessClient(self.router)
        return _http_client(
            self.base_url,
            self.api_key.get_secret_value() if self.api_key else None,
            self.timeout,
            self.max_retries,
            tuple(self.default_headers.items()),
        )

    # What is asked for

    def _body(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in ("model", *_SAMPLING, *_T2L_FIELDS)}
        fields |= self.model_kwargs | kwargs
        if unknown := [f for f in fields if f.startswith("t2l_") and f not in _T2L_FIELDS]:
            raise ValueError(f"no such field: {unknown[0]}; there are {', '.join(_T2L_FIELDS)}")
        fields["stop"] = stop or fields["stop"] or None
        fields["messages"] = to_wire(messages)
        # The transport decides whether to stream.
        return {
            name: value
            for name, value in fields.items()
            if value is not None and name not in ("stream", "stream_options")
        }

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        if "model" not in body:
            if self._first_model is None:
                self._first_model = self.client.models()[0]
            body["model"] = self._first_model
        return body

    async def _awhole(self, body: dict[str, Any]) -> dict[str, Any]:
        if "model" not in body:
            if self._first_model is None:
                self._first_model = (await self.client.amodels())[0]
            body["model"] = self._first_model
        return body

    # The four ways to ask

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchain():
            return result_of(self.client.chat(self._whole(self._body(messages, stop, kwargs))))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchain():
            body = await self._awhole(self._body(messages, stop, kwargs))
            return result_of(await self.client.achat(body))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with as_langchain():
            body = self._whole(self._body(messages, stop, kwargs)) | _WITH_USAGE
            with closing(self.client.stream(body)) as chunks:
                for chunk in chunks:
                    yield chunk_of(chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with as_langchain():
            body = await self._awhole(self._body(messages, stop, kwargs)) | _WITH_USAGE
            async with aclosing(self.client.astream(body)) as chunks:
                async for chunk in chunks:
                    yield chunk_of(chunk)

    # Which adapter

    def explain(self, messages: Sequence[BaseMessage], **kwargs: Any) -> dict[str, Any]:
        """Say which adapter would answer, and why; nothing is made or answered."""
        with as_langchain():
            return self.client.explain(self._whole(self._body(messages, None, kwargs)))

    async def aexplain(self, messages: Sequence[BaseMessage], **kwargs: Any) -> dict[str, Any]:
        """Say which adapter would answer, and why; nothing is made or answered."""
        with as_langchain():
            body = await self._awhole(self._body(messages, None, kwargs))
            return await self.client.aexplain(body)

    # Tools and structured output

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """
        Offer tools to the model.

        Args:
            tools: In any form that LangChain knows.
            tool_choice: A tool's name, ``any`` or ``required`` or True for some tool, ``auto``
                or ``none``.
            strict: Whether arguments must follow the tool's schema.
            kwargs: Further fields of each request.
        """
        wire_tools = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        names = [tool["function"]["name"] for tool in wire_tools if "function" in tool]
        if tool_choice is not None and tool_choice is not False:
            kwargs["tool_choice"] = _choice(tool_choice, names)
        return self.bind(tools=wire_tools, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """
        Have answers follow a schema and parse them.

        Args:
            schema: A pydantic class, a TypedDict, a JSON schema or an OpenAI function.
            include_raw: Give the message and the parsing error beside the parsed value.
            method: ``json_schema`` has the server follow the schema while it writes;
                ``function_calling`` asks for one tool call; ``json_mode`` asks for some JSON.
            strict: Whether every property is required and no other allowed.
            kwargs: Further fields of each request.
        """
        # What LangSmith shows; langchain-core takes it out before the request is made.
        kwargs["ls_structured_output_format"] = {
            "kwargs": {"method": method, "strict": strict},
            "schema": schema,
        }
        if method == "function_calling":
            name = convert_to_openai_tool(schema)["function"]["name"]
            llm = self.bind_tools([schema], tool_choice=name, strict=strict, **kwargs)
        else:
            wanted = response_format(schema, method, strict=strict)
            llm = self.bind(response_format=wanted, **kwargs)
        return structured(llm, schema, method, include_raw=include_raw)

    # What LangChain asks about the model

    @property
    def _llm_type(self) -> str:
        return f"{PROVIDER}-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("model", *_SAMPLING, *_T2L_FIELDS)}
        return named | {"base_url": self.base_url, "model_kwargs": self.model_kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        found = super()._get_ls_params(stop=stop or _listed(self.stop), **kwargs)
        found["ls_provider"] = PROVIDER
        found.setdefault("ls_model_name", self._first_model or PROVIDER)
        return found

    def _resolve_model_profile(self) -> ModelProfile | None:
        return ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            tool_calling=True,
            structured_output=True,
        )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It can be saved and loaded; keys are left out, and so is a router."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where a saved model finds its class: the package, whatever its modules are."""
        return ["integrations", "langchain"]

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when a saved model is loaded."""
        return {"api_key": "T2L_API_KEY"}


@lru_cache(maxsize=64)
def _http_client(
    base_url: str,
    api_key: str | None,
    timeout_s: float | None,
    max_retries: int,
    headers: tuple[tuple[str, str], ...],
) -> HttpClient:
    """One client for all models that call alike: who makes a model per request connects once."""
    return HttpClient(
        base_url,
        api_key=api_key,
        timeout_s=timeout_s,
        max_retries=max_retries,
        headers=dict(headers),
    )


_WITH_USAGE = {"stream_options": {"include_usage": True}}


def _listed(stop: list[str] | str | None) -> list[str] | None:
    return [stop] if isinstance(stop, str) else stop or None


def _choice(
    wanted: str | bool | dict[str, Any], names: list[str]
) -> Literal["auto", "none", "required"] | dict[str, Any]:
    if isinstance(wanted, dict):
        return wanted
    if wanted is True or wanted in ("any", "required"):
        return "required"
    if wanted in ("auto", "none"):
        return wanted
    if wanted not in names:
        raise ValueError(f"tool_choice {wanted!r} is none of the tools: {', '.join(names)}")
    return {"type": "function", "function": {"name": wanted}}
