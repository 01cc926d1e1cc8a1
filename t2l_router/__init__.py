"""
Adapt a local language model to each conversation's task: Text-to-LoRA as middleware.

What is named here is public; importing it loads no model library until something is built.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2l_router.application import build_app
    from t2l_router.bootstrap import build_router
    from t2l_router.config import Settings
    from t2l_router.engines.base import AdapterRef, Delta, Engine
    from t2l_router.engines.echo import EchoEngine
    from t2l_router.errors import T2LError
    from t2l_router.readiness import Readiness
    from t2l_router.router import Answer, Caller, Decision, Router
    from t2l_router.wire import ChatRequest

__all__ = [
    "AdapterRef",
    "Answer",
    "Caller",
    "ChatRequest",
    "Decision",
    "Delta",
    "EchoEngine",
    "Engine",
    "Readiness",
    "Router",
    "Settings",
    "T2LError",
    "build_app",
    "build_router",
]

_HOMES = {
    "AdapterRef": "engines.base",
    "Answer": "router",
    "Caller": "router",
    "ChatRequest": "wire",
    "Decision": "router",
    "Delta": "engines.base",
    "EchoEngine": "engines.echo",
    "Engine": "engines.base",
    "Readiness": "readiness",
    "Router": "router",
    "Settings": "config",
    "T2LError": "errors",
    "build_app": "application",
    "build_router": "bootstrap",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import t2l_router` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
