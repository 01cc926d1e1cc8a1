"""llama.cpp's server as the engine's peer: one stream, and streams with adapters of their own."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from t2l_router.engines.base import AdapterRef
from tests.bench.engine_peers import save_all

_START_S = 60.0


def measure_llama(
    server: Path,
    prompts: Sequence[list[int]],
    adapters: Sequence[AdapterRef],
    *,
    converter: Path,
    gguf: Path,
    base: Path,
    tokens: int,
    repeats: int,
    threads: int,
) -> dict[str, list[float]]:
    """
    Tokens a second of llama.cpp's server, the prompts' reading included.

    Args:
        server: The binary ``llama-server``.
        prompts: Token ids, one a stream.
        adapters: One a stream; requests name theirs in the field ``lora``.
        converter: ``convert_lora_to_gguf.py`` of its sources.
        gguf: The model.
        base: The same model's directory, for the converter.
        tokens: Of each answer.
        repeats: Measurements, after one that warms up.
        threads: Of the server.
    """
    n = len(prompts)
    alone: list[list[dict[str, float]]] = [[]]
    distinct = [[{"id": i, "scale": 1.0}] for i in range(n)]
    workloads = {
        "llama_one_stream": alone,
        "llama_one_stream_adapted": distinct[:1],
        "llama_base": alone * n,
        "llama_distinct": distinct,
    }
    found: dict[str, list[float]] = {name: [] for name in workloads}
    with tempfile.TemporaryDirectory() as folder:
        paths = [_converted(converter, path, base) for path in save_all(adapters, Path(folder))]
        with _running(server, gguf, paths, streams=n, threads=threads) as url:
            for turn in range(repeats + 1):
                for name, loras in workloads.items():
                    rate = asyncio.run(_rate(url, prompts, loras, tokens))
                    if turn:  # the first one warms up
                        found[name].append(rate)
    return found


def _converted(converter: Path, adapter: Path, base: Path) -> Path:
    made = adapter.with_suffix(".gguf")
    command = [sys.executable, converter, "--base", base, "--outfile", made, adapter]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{converter} failed:\n{done.stderr[-2_000:]}")
    return made


@contextlib.contextmanager
def _running(
    server: Path, gguf: Path, adapters: Sequence[Path], *, streams: int, threads: int
) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [server, "--model", gguf, "--host", "127.0.0.1", "--port", port]
    command += ["--threads", threads, "--threads-batch", threads, "--parallel", streams]
    command += ["--ctx-size", 1_024 * streams, "--cache-ram", 0, "--lora-init-without-apply"]
    command += ["--lora", ",".join(str(path) for path in adapters)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + _START_S
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    said = log.read()[-2_000:].decode(errors="replace")
                    raise RuntimeError(f"{server} didn't start:\n{said}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


async def _rate(
    url: str, prompts: Sequence[list[int]], loras: Sequence[list[dict[str, float]]], tokens: int
) -> float:
    async with httpx.AsyncClient(timeout=300) as client:

        async def answer(ids: list[int], lora: list[dict[str, float]]) -> int:
            body: dict[str, Any] = {"prompt": ids, "n_predict": tokens, "temperature": 0.0}
            body |= {"ignore_eos": True, "cache_prompt": False, "lora": lora}
            reply = await client.post(f"{url}/completion", json=body)
            reply.raise_for_status()
            return int(reply.json()["tokens_predicted"])

        start = time.perf_counter()
        pairs = zip(prompts[: len(loras)], loras, strict=True)
        counts = await asyncio.gather(*(answer(ids, lora) for ids, lora in pairs))
        return sum(counts) / (time.perf_counter() - start)
