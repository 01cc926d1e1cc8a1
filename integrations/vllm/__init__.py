"""
The vLLM side of t2l: a plugin through which plain vLLM servers load adapters by their id.

vLLM finds `register` by the entry-point group ``vllm.general_plugins`` and calls it in each of its
processes; ``T2L_RESOLVER_...`` variables configure it (see `integrations.vllm.settings`).
A wheel of t2l installed without its dependencies is enough for this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from integrations.vllm.resolver import T2LResolver

__all__ = ["T2LResolver", "register"]

NAME = "t2l_resolver"


def register() -> None:
    """
    Let this vLLM process resolve adapter ids; nothing happens where no source is set.

    Raises:
        ConfigError: A setting is missing or wrong; the server does not start.
    """
    # Imported late: the environment that has t2l need not have vLLM, nor settings for this.
    from integrations.vllm.settings import load  # noqa: PLC0415

    settings = load()
    if settings is None:
        return
    from vllm.lora.resolver import LoRAResolverRegistry  # noqa: PLC0415

    from integrations.vllm.resolver import T2LResolver  # noqa: PLC0415

    # vLLM may call this several times in one process.
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, T2LResolver(settings))


def __getattr__(name: str) -> Any:
    """Import the resolver when it is used: it needs vLLM, the modules beside it don't."""
    if name != "T2LResolver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from integrations.vllm.resolver import T2LResolver  # noqa: PLC0415

    return T2LResolver
