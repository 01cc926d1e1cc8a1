"""`T2LAdapterSelector`: which adapter fits an input, as a step of a chain."""

from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
)
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import coerce_to_runnable
from pydantic import BaseModel, ConfigDict, Field

from integrations.langchain.chat import ChatT2L


class AdapterChoice(BaseModel):
    """
    Which adapter would answer, and why.

    Args:
        decision: As in ``X-T2L-Decision``; ``generated`` is one that would have to be written.
        reason: Why, for people.
        adapter: The held adapter's id; None if there is none yet, or none is wanted.
        description: The task, given or inferred.
        examples: Of the task, where they were given.
        score: Cosine of the nearest held description, where one was looked for.
    """

    model_config = ConfigDict(frozen=True)

    decision: str
    reason: str
    adapter: str | None = None
    description: str | None = None
    examples: list[dict[str, str]] | None = None
    score: float | None = None

    def fields(self) -> dict[str, Any]:
        """What a `ChatT2L` is to be called with or bound to, to answer so."""
        if self.adapter is not None:
            return {"t2l_adapter": self.adapter, "t2l_description": None, "t2l_examples": None}
        if self.decision == "generated":
            return {"t2l_description": self.description, "t2l_examples": self.examples}
        return {"t2l_description": None, "t2l_examples": None}


class T2LAdapterSelector(RunnableSerializable[Any, AdapterChoice]):
    """
    Maps an input to the adapter that fits it; nothing is written and nothing answered.

    Its choices can be branched on (`RunnableBranch`), shown, or bound to a model:
    ``assign(choice=selector) | (lambda d: prompt | llm.bind(**d["choice"].fields()))``.

    Args:
        llm: Whose server is asked.
        describe: Input to task description, None for the base model. Without it the input is
            what a chat model takes, and the server infers the task as it does for a chat.
        examples: Of the task of every input, ``{"input": ..., "output": ...}``, with what
            *describe* says or instead.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    llm: ChatT2L
    describe: Runnable[Any, Any] | None = Field(None, exclude=True)
    examples: list[dict[str, str]] | None = None

    def __init__(
        self,
        llm: ChatT2L,
        describe: Runnable[Any, str | None] | Callable[[Any], str | None] | None = None,
        examples: list[dict[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        step: Runnable[Any, Any] | None = describe and coerce_to_runnable(describe)
        super().__init__(llm=llm, describe=step, examples=examples, **kwargs)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> AdapterChoice:  # noqa: A002 - the base's name
        """Choose for one input."""
        return self._call_with_config(self._choose, input, config)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - the base's name
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> AdapterChoice:
        """Choose for one input."""
        return await self._acall_with_config(self._achoose, input, config)

    def _choose(
        self,
        given: Any,
        run_manager: CallbackManagerForChainRun,  # noqa: ARG002
        config: RunnableConfig,
    ) -> AdapterChoice:
        if self.describe is None:
            return self._choice(self.llm.explain(self._messages(given), **self._stated()))
        description = self.describe.invoke(given, config)
        if description is None:
            return _BASE
        turn = HumanMessage(description)
        return self._choice(self.llm.explain([turn], **self._stated(description)))

    async def _achoose(
        self,
        given: Any,
        run_manager: AsyncCallbackManagerForChainRun,  # noqa: ARG002
        config: RunnableConfig,
    ) -> AdapterChoice:
        if self.describe is None:
            return self._choice(await self.llm.aexplain(self._messages(given), **self._stated()))
        description = await self.describe.ainvoke(given, config)
        if description is None:
            return _BASE
        turn = HumanMessage(description)
        return self._choice(await self.llm.aexplain([turn], **self._stated(description)))

    def _stated(self, description: str | None = None) -> dict[str, Any]:
        given = {"t2l_description": description, "t2l_examples": self.examples}
        return {name: value for name, value in given.items() if value is not None}

    def _choice(self, explained: dict[str, Any]) -> AdapterChoice:
        task, nearest = explained.get("task"), explained.get("nearest")
        return AdapterChoice(
            decision=explained["decision"],
            reason=explained["reason"],
            adapter=explained["adapter"],
            description=task and task["text"],
            examples=self.examples if task and task["examples"] else None,
            score=nearest and nearest["score"],
        )

    def _messages(self, given: Any) -> list[BaseMessage]:
        return self.llm._convert_input(given).to_messages()  # noqa: SLF001 - the only door


_BASE = AdapterChoice(decision="base", reason="no task description")
