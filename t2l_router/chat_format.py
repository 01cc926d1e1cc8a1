"""
Chat messages to token ids: the one place where a chat template is rendered.

Serving and training both call `render`, so that a model sees in production exactly the tokens it
was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from t2l_router.errors import InvalidRequest

# OpenAI's newer name for the system role, which templates don't know.
_ROLES = {"developer": "system"}


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """
    Render a conversation up to where the assistant's answer begins.

    Args:
        tokenizer: Of the base model. Without a chat template the contents are joined by blank
            lines, as a pretrained model reads text.
        messages: Each with ``role`` and ``content``.

    Returns:
        Token ids, with the special tokens the model expects at the start.

    Raises:
        InvalidRequest: The model's template refuses the order or kind of roles.
    """
    turns = [
        {"role": _ROLES.get(message["role"], message["role"]), "content": message["content"]}
        for message in messages
    ]
    if tokenizer.chat_template is None:
        plain: list[int] = tokenizer("\n\n".join(turn["content"] for turn in turns)).input_ids
        return plain
    try:
        encoded: Any = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except TemplateError as error:
        raise InvalidRequest(
            f"the base model's chat template refuses these messages: {error}", param="messages"
        ) from error
    ids: list[int] = encoded["input_ids"]
    return ids
