"""Routers over the echo engine and a real library, for tests."""

import json
import tempfile
from pathlib import Path

from adapters_store import AdapterStore, StoreConfig
from t2l_router import wire
from t2l_router.assembly import Making, assemble
from t2l_router.config import Settings
from t2l_router.engines.echo import EchoEngine
from t2l_router.engines.echo_adapters import EchoEncoder, EchoGenerator, EchoReader, EchoTensors
from t2l_router.router import Caller, Router, ServedModel

MODEL = "org/base"
FINGERPRINT = "0" * 64
_READER = EchoReader()


def open_store(directory: Path) -> AdapterStore:
    """A library in a directory, created where there is none."""
    return AdapterStore.open(StoreConfig.in_directory(directory, index="exact"))


def echo_router(
    directory: Path | None = None,
    *,
    generator=None,
    engine=None,
    encoder=None,
    store=None,
    reader=_READER,
    kind="local",
    **settings,
) -> Router:
    """A router over a library in *directory*, or in a new one; without *reader*, no examples."""
    directory = directory or Path(tempfile.mkdtemp(prefix="t2l-test-"))
    return assemble(
        Settings(data_dir=directory, engine=kind, **settings),
        store or open_store(directory),
        ServedModel(MODEL, FINGERPRINT, ("base-short",)),
        engine or EchoEngine(),
        Making(
            encoder or EchoEncoder(), generator or EchoGenerator(), EchoTensors(), reader=reader
        ),
    )


def request(model=MODEL, messages=None, **fields) -> wire.ChatRequest:
    """A chat request."""
    messages = messages or [{"role": "user", "content": "hello"}]
    return wire.parse_chat(json.dumps({"model": model, "messages": messages} | fields).encode())


async def decide(router: Router, caller: Caller | None = None, **fields):
    """The decision on a request that nobody answers."""
    return (await router.chat(request(**fields), caller or Caller())).decision


async def answer(router: Router, caller: Caller | None = None, **fields):
    """The decision on a request, and the whole answer."""
    found = await router.chat(request(**fields), caller or Caller())
    return found.decision, "".join([delta.text async for delta in found.deltas])
