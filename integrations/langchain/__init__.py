"""
t2l for LangChain: a chat model whose answers a task description adapts.

Needs langchain-core and nothing else of LangChain.
"""

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "integrations.langchain needs langchain-core: pip install 't2l[langchain]'"
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

__all__ = [
    "AdapterUnavailable",
    "ChatT2L",
    "T2LAPIError",
    "T2LAuthenticationError",
    "T2LConnectionError",
    "T2LContextOverflow",
    "T2LInvalidRequest",
    "T2LNotFound",
    "T2LPermissionDenied",
    "T2LRateLimited",
    "T2LTimeout",
]
