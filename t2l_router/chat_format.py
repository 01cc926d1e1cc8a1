"""
Chat messages to token ids: the one place where a chat template is rendered.

Serving and training both call `render`, so that a model sees in production exactly the tokens it
was trained on.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from t2l_router.errors import InvalidRequest

# OpenAI's newer name for the system role, which templates don't know.
_ROLES = {"developer": "system"}

# Around a call of a tool, in the form that most open models are trained on.
CALL_OPENING, CALL_CLOSING = "<tool_call>", "</tool_call>"

# For chat templates that know no tools.
_TOOLS = """You may call functions. Their signatures:
<tools>
{tools}
</tools>
To call one, answer with nothing but its name and arguments:
<tool_call>
{{"name": <function name>, "arguments": <object>}}
</tool_call>"""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """
    Render a conversation up to where the assistant's answer begins.

    Args:
        tokenizer: Of the base model. Without a chat template the contents are joined by blank
            lines, as a pretrained model reads text.
        messages: Each with ``role`` and ``content``, those of the assistant perhaps with
            ``tool_calls``.
        tools: What the model may call, in OpenAI's form; a template that knows no tools gets them
            in words, as part of the system message.

    Returns:
        Token ids, with the special tokens the model expects at the start.

    Raises:
        InvalidRequest: The model's template refuses the order or kind of roles.
    """
    knows_tools = "tools" in str(tokenizer.chat_template)
    turns = [_turn(message, with_calls=knows_tools) for message in messages]
    if tools and not knows_tools:
        turns = _with_instructions(turns, tools)
    if tokenizer.chat_template is None:
        plain: list[int] = tokenizer("\n\n".join(turn["content"] for turn in turns)).input_ids
        return plain
    try:
        encoded: Any = tokenizer.apply_chat_template(
            turns,
            tools=[dict(tool) for tool in tools] if tools and knows_tools else None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
    except TemplateError as error:
        raise InvalidRequest(
            f"the base model's chat template refuses these messages: {error}", param="messages"
        ) from error
    ids: list[int] = encoded["input_ids"]
    return ids


def _turn(message: Mapping[str, Any], *, with_calls: bool) -> dict[str, Any]:
    """A message as a template takes it; calls of tools go into its text if it takes none."""
    turn = {
        "role": _ROLES.get(message["role"], message["role"]),
        "content": message["content"],
    }
    calls = [
        {"name": call["function"]["name"], "arguments": _arguments(call["function"]["arguments"])}
        for call in message.get("tool_calls") or ()
    ]
    if calls and with_calls:
        turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    elif calls:
        texts = [f"{CALL_OPENING}\n{json.dumps(call)}\n{CALL_CLOSING}" for call in calls]
        turn["content"] = "\n".join([*([turn["content"]] if turn["content"] else []), *texts])
    return turn


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # what a model once wrote, and a client sends back
        return text


def _with_instructions(
    turns: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    words = _TOOLS.format(tools="\n".join(json.dumps(tool) for tool in tools))
    if turns[0]["role"] == "system":
        return [turns[0] | {"content": f"{turns[0]['content']}\n\n{words}"}, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]
