"""The language model that describes tasks: any that litellm reaches, or the local base model."""

from typing import TYPE_CHECKING, Any

from t2l_router.environment import keep_litellm_home
from t2l_router.errors import ConfigError
from training.describe_prompt import Messages
from training.describe_tasks import Ask

if TYPE_CHECKING:
    from t2l_router.router import Router

# A description in the paper's style has 20 to 60 tokens.
_TOKENS_PER_DESCRIPTION = 60
_RETRIES = 3


def through_litellm(
    model: str,
    *,
    per_call: int,
    temperature: float = 1.0,
    timeout_s: float = 120.0,
    api_base: str | None = None,
    router: "Router | None" = None,
) -> Ask:
    """
    Ask a model by litellm's name for it.

    Args:
        model: E.g. ``openai/gpt-4o-mini``; ``t2l/<model>`` is one of ours.
        per_call: Descriptions that an answer must have room for.
        temperature: Diversity is the point, so rather 1 than 0.
        timeout_s: Of one call, in seconds.
        api_base: The server's address, where the provider's own is not meant.
        router: Answers ``t2l/...`` in this process.

    Raises:
        ConfigError: litellm is not installed.
    """
    keep_litellm_home()
    try:
        import litellm  # noqa: PLC0415 - an extra, and slow to import

        from integrations.litellm import T2LProvider, register  # noqa: PLC0415 - needs litellm
    except ImportError:
        raise ConfigError(
            "describing tasks needs litellm: pip install '.[litellm]' in a checkout of t2l"
        ) from None
    # It prints advice to stdout at each error.
    litellm.suppress_debug_info = True
    register(T2LProvider(router))

    def ask(messages: Messages, seed: int) -> str:
        answer: Any = litellm.completion(
            model=model,
            messages=messages,
            temperature=temperature,
            max_tokens=_TOKENS_PER_DESCRIPTION * per_call,
            seed=seed,
            timeout=timeout_s,
            num_retries=_RETRIES,
            api_base=api_base,
            drop_params=True,  # not every provider knows a seed
        )
        return str(answer.choices[0].message.content or "")

    return ask
