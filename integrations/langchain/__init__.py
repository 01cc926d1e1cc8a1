"""
t2l for LangChain: a chat model, a selector of adapters for chains, middleware for agents.

Needs langchain-core; `T2LMiddleware` is imported when it is asked for, and needs langchain.
"""

from typing import TYPE_CHECKING, Any

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "integrations.langchain needs langchain-core: "
        "pip install '.[langchain]' in a checkout of t2l"
    ) from None

from integrations.langchain.chat import ChatT2L
from integrations.langchain.errors import (
    AdapterUnavailable,
    T2LAPIError,
    T2LAuthenticationError,
    T2LConnectionError,
    T2LContextOverflow,
    T2LInvalidRequest,
    T2LNotFound,
    T2LPermissionDenied,
    T2LRateLimited,
    T2LTimeout,
)
from integrations.langchain.selector import AdapterChoice, T2LAdapterSelector

if TYPE_CHECKING:
    from integrations.langchain.agents import T2LMiddleware

__all__ = [
    "AdapterChoice",
    "AdapterUnavailable",
    "ChatT2L",
    "T2LAPIError",
    "T2LAdapterSelector",
    "T2LAuthenticationError",
    "T2LConnectionError",
    "T2LContextOverflow",
    "T2LInvalidRequest",
    "T2LMiddleware",
    "T2LNotFound",
    "T2LPermissionDenied",
    "T2LRateLimited",
    "T2LTimeout",
]


def __getattr__(name: str) -> Any:
    """Import the middleware when it is asked for: langchain takes long to import."""
    if name == "T2LMiddleware":
        from integrations.langchain.agents import T2LMiddleware  # noqa: PLC0415

        return T2LMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
