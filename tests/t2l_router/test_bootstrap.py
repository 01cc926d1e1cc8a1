import threading

import pytest

from t2l_router.application import build_app
from t2l_router.bootstrap import build_router, torch_device
from t2l_router.config import Settings
from t2l_router.engines.base import EngineHealth
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import ConfigError
from t2l_router.readiness import NotReady, Readiness
from t2l_router.router import Caller, Decision
from t2l_router.wire import ChatRequest, Message
from tests.routers import open_store


def request(model: str) -> ChatRequest:
    messages = [Message(role="user", content="hi")]
    return ChatRequest(model=model, messages=messages, t2l_description="Translate")


@pytest.mark.parametrize("model", ["echo", "HuggingFaceTB/SmolLM2-135M-Instruct"])
async def test_echo_router(model, tmp_path):
    """The echo needs no model at all, and also answers to the base model's name."""
    router = build_router(Settings(engine="echo", data_dir=tmp_path))

    answer = await router.chat(request(model), Caller())
    await answer.deltas.aclose()
    await router.close()

    assert answer.decision.kind == "generated"


def test_vllm_without_servers(tmp_path):
    """What can't be served is said before anything is loaded."""
    phases = []
    with pytest.raises(ConfigError, match="vllm_urls must name the servers"):
        build_router(Settings(engine="vllm", data_dir=tmp_path), enter=phases.append)
    assert phases == []


@pytest.mark.parametrize("is_well", [True, False])
async def test_loading_hands_the_router_over(tmp_path, monkeypatch, is_well):
    """The application loads in a thread of its own, is ready then, and closes what it loaded."""
    monkeypatch.setattr(EchoEngine, "health", lambda _: EngineHealth(is_well, 0, 0, ()))
    readiness = Readiness()
    app = build_app(Settings(engine="echo", data_dir=tmp_path), readiness)
    received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        if len(received) == 1:
            for thread in threading.enumerate():
                if thread.name == "t2l-load":
                    thread.join()
            assert readiness.is_ready is is_well
            assert (readiness.phase == "ready") is is_well
            # Waits to be written, whatever the engine is like.
            readiness.router._log(Decision("base", "a test", trace="t"), Caller(), {})
        return received.pop(0)

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with open_store(tmp_path / "library") as store:
        assert [entry.trace for entry in store.decisions.newest()] == ["t"]


def test_failure_is_kept():
    """What could not be loaded is there to be reported, and requests are told."""
    readiness = Readiness()
    readiness.fail(ConfigError("no such model"))

    assert isinstance(readiness.error, ConfigError)
    assert not readiness.is_ready
    with pytest.raises(NotReady, match="loading failed: no such model"):
        _ = readiness.router


def test_device_that_is_not_there(monkeypatch):
    """A GPU that is asked for and missing is an error, not a silent CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert torch_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        torch_device("cuda")
