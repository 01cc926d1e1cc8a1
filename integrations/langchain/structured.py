"""Structured output: what is asked of the server, and how its answer is read."""

import re
from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

Method = Literal["json_schema", "function_calling", "json_mode"]
Schema = dict[str, Any] | type


def response_format(schema: Schema, method: Method, *, strict: bool | None) -> dict[str, Any]:
    """The request's field ``response_format``."""
    if method == "json_mode":
        return {"type": "json_object"}
    if method != "json_schema":
        raise ValueError(
            f"no method {method!r}; there are json_schema, function_calling and json_mode"
        )
    json_schema = _closed(convert_to_json_schema(schema, strict=strict))
    # A generic class is called `Result[int]`, which OpenAI's format doesn't allow.
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", json_schema.get("title", "answer"))[:64]
    wanted: dict[str, Any] = {"name": name, "schema": json_schema}
    if strict is not None:
        wanted["strict"] = strict
    return {"type": "json_schema", "json_schema": wanted}


def _closed(schema: Any) -> Any:
    """
    A schema whose objects hold the properties that it names and no others, unless it says more.

    A model that may add properties goes on with them: to LangChain's users a schema is a form.
    A schema with ``allOf`` stays as it is: there, one part names what another doesn't.
    """
    if not isinstance(schema, dict) or "allOf" in schema:
        return schema
    closed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            closed[key] = {name: _closed(value) for name, value in schema[key].items()}
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            closed[key] = [_closed(value) for value in schema[key]]
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def structured(
    llm: Runnable[LanguageModelInput, AIMessage],
    schema: Schema,
    method: Method,
    *,
    include_raw: bool,
) -> Runnable[LanguageModelInput, Any]:
    """Parse *llm*'s answers; with *include_raw*, give message, value and error side by side."""
    parser = _parser(schema, method)
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _parser(schema: Schema, method: Method) -> OutputParserLike[Any]:
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if method == "function_calling":
        if is_class:
            return PydanticToolsParser(tools=[schema], first_tool_only=True)
        name = convert_to_openai_tool(schema)["function"]["name"]
        return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
    return PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
