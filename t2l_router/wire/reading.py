"""From bytes or values to a checked request; every fault names its field."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from t2l_router.errors import InvalidRequest
from t2l_router.wire.requests import REFUSED, ChatRequest, ChosenTool, Incoming, Offer

R = TypeVar("R", bound=Incoming)

_OURS = "t2l_"
_COMPONENTS = "#/components/schemas/{model}"


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI schema of a body; what it refers to is among `components`."""
    schema = model.model_json_schema(ref_template=_COMPONENTS)
    schema.pop("$defs", None)
    return schema


def components() -> dict[str, Any]:
    """The schemas that chat requests are made of, by name."""
    found: dict[str, Any] = ChatRequest.model_json_schema(ref_template=_COMPONENTS)["$defs"]
    return found


def parse_chat(body: bytes, *, strict: bool = False) -> ChatRequest:
    """
    Read a request body.

    Args:
        body: JSON, whatever else it claims to be.
        strict: Refuse fields that nobody knows.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    return _known(_checked(parse(body, ChatRequest)), strict)


def parse(body: bytes, model: type[R], *, strict: bool = False) -> R:
    """
    Read a request body of one format.

    Args:
        body: JSON, whatever else it claims to be.
        model: The format.
        strict: Refuse fields that it doesn't know.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    try:
        return _known(model.model_validate_json(body), strict)
    except ValidationError as error:
        raise _invalid(error) from None


def checked_chat(fields: dict[str, Any], *, strict: bool = False) -> ChatRequest:
    """
    A chat request from its fields.

    Args:
        fields: By their names.
        strict: Refuse those that nobody knows.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    try:
        return _known(_checked(ChatRequest.model_validate(fields)), strict)
    except ValidationError as error:
        raise _invalid(error) from None


def _known(request: R, strict: bool) -> R:
    if strict and request.model_extra:
        unknown = next(iter(request.model_extra))[:80]
        raise InvalidRequest(f"Unrecognized request argument supplied: {unknown}", param=unknown)
    return request


def _checked(request: ChatRequest) -> ChatRequest:
    """Refuse what is not built, and fields that contradict each other."""
    _check_ours(request)
    for field, neutral in REFUSED.items():
        value = getattr(request, field)
        if value is not None and value not in neutral:
            raise InvalidRequest(f"{field} is not supported here; leave it out", param=field)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    form = request.response_format
    if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
        raise InvalidRequest(
            'json_schema belongs to type "json_schema", and to no other',
            param="response_format.json_schema",
        )
    _check_tools(request)
    for i, message in enumerate(request.messages):
        if message.role == "tool" and message.tool_call_id is None:
            raise InvalidRequest(
                "a tool's message says which call it answers", param=f"messages[{i}].tool_call_id"
            )
        if message.content is None and not message.tool_calls:
            raise InvalidRequest("a message needs content", param=f"messages[{i}].content")
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequest("only an assistant calls tools", param=f"messages[{i}].tool_calls")
    return request


def require_offered(request: ChatRequest, offers: Callable[[], frozenset[Offer]]) -> None:
    """
    Make sure that the engine can do what a request asks for: nothing is silently left out.

    Args:
        request: What is asked.
        offers: Asked only if the request needs anything.

    Raises:
        InvalidRequest: Naming the field.
    """
    form = request.response_format
    needed: dict[Offer, tuple[str, object]] = {
        "choices": ("n", request.n not in (None, 1)),
        "logprobs": ("logprobs", request.logprobs),
        "tools": ("tools", request.tools and request.tool_choice != "none"),
        "json": ("response_format", form and form.type != "text"),
    }
    for offer, (field, is_needed) in needed.items():
        if is_needed and offer not in offers():
            raise InvalidRequest(f"{field} is not supported here; leave it out", param=field)


def _check_ours(request: ChatRequest) -> None:
    """Refuse a name that only we could mean: misspelt, it would be left out without a word."""
    known = [name for name in ChatRequest.model_fields if name.startswith(_OURS)]
    for name in request.model_extra or ():
        if name.startswith(_OURS):
            raise InvalidRequest(
                f"there is no field {name[:80]}; there are {', '.join(known)}", param=name[:80]
            )


def _check_tools(request: ChatRequest) -> None:
    names = {tool.function.name for tool in request.tools or []}
    choice = request.tool_choice
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice needs tools", param="tool_choice")
    if isinstance(choice, ChosenTool) and choice.function.name not in names:
        raise InvalidRequest(
            f"tool_choice names {choice.function.name[:80]!r}, which is not among the tools",
            param="tool_choice",
        )


def invalid(errors: Sequence[Any], *, skip: int = 0) -> InvalidRequest:
    """
    What pydantic found wrong, as the caller should read it.

    Args:
        errors: As pydantic lists them; the first is told.
        skip: Steps of the way to the field that are not the caller's.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
    param = ""
    for step in first["loc"][skip:]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else str(step)
    if not param:
        return InvalidRequest("the body must be a JSON object")
    param = param[:200]
    if first["type"] == "missing":
        return InvalidRequest(f"{param} is required", param=param)
    value = first["input"]
    # Only small plain values: the caller knows what he sent, and it may be his users' text.
    got = f" (got {value!r})" if isinstance(value, bool | int | float) else ""
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}{got[:80]}", param=param)


def _invalid(error: ValidationError) -> InvalidRequest:
    return invalid(error.errors(include_url=False))
