"""``t2l doctor``: whether everything is in place, and what to do where it is not."""

# ruff: noqa: PLC0415 - torch is imported only when its check runs
import asyncio
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from adapters_store.errors import StoreError
from t2l_router import bootstrap, storage
from t2l_router.choice import BASE, PREFIX
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import FAILURE, Column, Output, output_option, size
from t2l_router.config import Settings
from t2l_router.errors import ConfigError, DiskFull, ModelUnavailable, T2LError
from t2l_router.router import Caller, Router
from t2l_router.wire import ChatRequest, Message

# The default models, their download and their conversion side by side.
_ROOM_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that was looked at.

    Args:
        name: What.
        ok: Whether it is as it should be.
        found: What was found, or what to do.
    """

    name: str
    ok: bool
    found: str


@click.command()
@settings_options("data_dir", "base_model", "hypernet", "encoder", "device", "host", "port")
@output_option
def command(settings: Settings, out: Output) -> None:
    """
    Check the environment, the models, the disk and the device.

    The last check loads everything and has a new adapter answer, in a library of its own that is
    removed again. Ends with exit code 1 if a check fails.
    """
    checks = list(_checks(settings))
    rows: list[dict[str, Any]] = [
        {"check": check.name, "ok": check.ok, "found": check.found} for check in checks
    ]
    columns = [
        Column("check", "check"),
        Column("ok", "state", lambda ok: "OK" if ok else "FAIL"),
        Column("found", "found", wraps=True),
    ]
    out.table(rows, columns)
    failed = [check for check in checks if not check.ok]
    for check in failed if not out.is_human else ():  # pipes carry them off, `quiet` has none
        click.echo(f"{check.name}: {check.found}", err=True)
    if failed:
        raise click.exceptions.Exit(FAILURE)


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("python", ok=True, found=f"{platform.python_version()} on {platform.machine()}")
    yield _check("device", lambda: _device(settings))
    yield _check("data directory", lambda: _room(settings.data_dir))
    yield _check("cache directory", lambda: _room(settings.cache_dir))
    yield _check("library", lambda: _library(settings))
    yield _check("port", lambda: _port(settings.host, settings.port))
    needed: list[Check] = []
    if settings.engine != "echo":
        needed = [
            _check("base model", lambda: _model(settings, settings.base_model)),
            _check("hypernetwork", lambda: _hypernet(settings)),
            _check("encoder", lambda: _encoder(settings)),
        ]
    yield from needed
    if all(check.ok for check in needed):
        yield _check("answer", lambda: _answer(settings))


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, found=look())
    except (T2LError, StoreError, OSError) as error:
        return Check(name, ok=False, found=str(error))


def _device(settings: Settings) -> str:
    import torch

    device = bootstrap.torch_device(settings.device)
    what = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    return f"{device}, {what}, torch {torch.__version__}"


def _room(directory: Path) -> str:
    """Make sure that files can be written there and that there is room for the default models."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        free = shutil.disk_usage(directory).free
    if free < _ROOM_BYTES:
        raise DiskFull(
            f"{directory}: {size(free)} free; make room for {size(_ROOM_BYTES)}, or point "
            "T2L_DATA_DIR and T2L_CACHE_DIR elsewhere"
        )
    return f"{directory}, {size(free)} free"


def _library(settings: Settings) -> str:
    """Open the library as the server does, which makes one where there is none."""
    with storage.open_library(settings, actor=storage.operator()) as store:
        states = store.reports.stats(top=0).by_state
        n_adapters = sum(n for state, n in states.items() if state != "deleted")
        where = store.ledger.database.url.render_as_string(hide_password=True)
    return f"{where}, adapters: {n_adapters}"


def _port(host: str, port: int) -> str:
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((host, port)) == 0:
            raise ConfigError(
                f"something answers at {host}:{port}; `t2l serve` needs another --port"
            )
    return f"{host}:{port} is free"


def _model(settings: Settings, name: str) -> str:
    from t2l_router.models import local

    found = local(name, cache_dir=settings.cache_dir)
    if found is None:
        raise ModelUnavailable(
            f"{name} is not on this machine; get it with: t2l models pull {name}"
        )
    return f"{found.name}, {found.fingerprint[:12]}, {found.path}"


def _hypernet(settings: Settings) -> str:
    from t2l_router import checkpoint

    config = checkpoint.from_pretrained(settings.hypernet).config
    name = f"{settings.hypernet} ({checkpoint.hypernet_id(settings.hypernet)})"
    shape = "reads tokens," if config.reader else config.variant
    return f"{name}: {shape} for {config.lora.base_model}, rank {config.lora.rank}"


def _encoder(settings: Settings) -> str:
    from t2l_router import checkpoint

    name = settings.encoder or checkpoint.from_pretrained(settings.hypernet).config.encoder
    return _model(settings, name)


def _answer(settings: Settings) -> str:
    with tempfile.TemporaryDirectory(prefix="t2l-doctor-") as directory:
        own = {"data_dir": Path(directory), "library_database": None, "library_blobs": None}
        with loading() as (enter, progress):
            router = bootstrap.build_router(
                settings.model_copy(update={**own, "library_index": "faiss"}),
                enter=enter,
                progress=progress,
            )
        # vLLM takes adapters from the library that everybody shares; none is left there.
        return asyncio.run(_first_token(router, adapted=settings.engine != "vllm"))


async def _first_token(router: Router, *, adapted: bool) -> str:
    """Have a new adapter, or the base model, begin to answer."""
    start = time.perf_counter()
    request = ChatRequest(
        model=router.model.name if adapted else f"{PREFIX}{BASE}",
        messages=[Message(role="user", content="Good morning")],
        max_tokens=8,  # the last piece of a new adapter's answer waits for the library
        t2l_description="Translate English to French" if adapted else None,
        t2l_required=adapted,
    )
    try:
        answer = await router.chat(request, Caller())
        chosen_ms = (time.perf_counter() - start) * 1_000
        async with aclosing(answer.deltas) as deltas:
            await anext(deltas)
        token_ms = (time.perf_counter() - start) * 1_000 - chosen_ms
    finally:
        await router.close()
    if not adapted:
        return f"the base model's first token after {token_ms:.0f} ms; no adapter was tried"
    return (
        f"a new adapter in {chosen_ms:.0f} ms, its first token {token_ms:.0f} ms later; "
        "it is removed again"
    )
