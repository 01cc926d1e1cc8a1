"""`T2LMiddleware`: a task for each step of a LangChain agent."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain_core.messages import ToolMessage

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ModuleNotFoundError as error:
    raise ImportError("T2LMiddleware needs langchain: pip install langchain") from error

Describe = str | Mapping[str | None, str] | Callable[[ModelRequest[Any]], str | None]


class T2LMiddleware(AgentMiddleware[Any, Any, Any]):
    """
    Sets the task description of each model call of an agent.

    Args:
        describe: The task of every call; or the task by the tool whose result the model is to
            read, under None the task before any tool was called; or a function of the request.
            No task leaves the model's own.
    """

    def __init__(self, describe: Describe) -> None:
        super().__init__()
        self._describe = describe

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model with this step's task."""
        return handler(self._with_task(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model with this step's task."""
        return await handler(self._with_task(request))

    def _with_task(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        task = self._task_of(request)
        if task is None:
            return request
        # The model's own examples are those of another task.
        fields = {"t2l_description": task, "t2l_examples": None}
        return request.override(model_settings=request.model_settings | fields)

    def _task_of(self, request: ModelRequest[Any]) -> str | None:
        if isinstance(self._describe, str):
            return self._describe
        if isinstance(self._describe, Mapping):
            last = request.messages[-1] if request.messages else None
            return self._describe.get(last.name if isinstance(last, ToolMessage) else None)
        return self._describe(request)
