"""
Routers in processes of their own over one library, as behind a load balancer.

``python -m tests.fleet CONFIG`` is one of them, with the library's configuration as JSON. It says
that it is ready, then answers each line of stdin, a list of requests sent at once, with a line.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters_store import AdapterStore, StoreConfig
from t2l_router.engines.echo_adapters import EchoGenerator
from t2l_router.router import Caller
from tests.routers import answer, echo_router


class SlowGenerator(EchoGenerator):
    """Takes a while, as a hypernetwork does, and counts."""

    calls = 0

    def generate(self, embeddings):
        type(self).calls += 1
        time.sleep(0.1)
        return super().generate(embeddings)


class RouterProcess:
    """
    One of them.

    Args:
        config: Of the library.
        settings: Of the router.
    """

    def __init__(self, config: StoreConfig, **settings: Any) -> None:
        given = json.dumps({"config": asdict(config), "settings": settings}, default=str)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def wait(self) -> None:
        """Wait until it is ready."""
        assert self.process.stdout.readline() == "ready\n"

    def send(self, *requests: dict[str, Any]) -> None:
        """Have it ask all of these at once; `read` gives what came back."""
        self.process.stdin.write(json.dumps(requests) + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The answers, and how many adapters it has written since it began."""
        return json.loads(self.process.stdout.readline())

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Ask one thing."""
        self.send(fields)
        return self.read()["answers"][0]

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def routers(config: StoreConfig, number: int, **settings: Any) -> Iterator[Sequence[RouterProcess]]:
    """Some of them, until the end of the block."""
    processes = [RouterProcess(config, **settings) for _ in range(number)]
    try:
        for process in processes:
            process.wait()
        yield processes
    finally:
        for process in processes:
            process.close()


async def _serve(config: dict[str, Any], settings: dict[str, Any]) -> None:
    paths = {"cache_dir": Path(config["cache_dir"])}
    store = AdapterStore.open(StoreConfig(**config | paths))
    router = echo_router(
        paths["cache_dir"],
        store=store,
        generator=SlowGenerator(),
        library_database=config["database_url"],
        generation_timeout_s=60,
        **settings,
    )
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers = await asyncio.gather(*(_ask(router, **fields) for fields in json.loads(line)))
        print(json.dumps({"answers": answers, "generations": SlowGenerator.calls}), flush=True)


async def _ask(router, tenant="local", **fields):
    decision, text = await answer(router, Caller(tenant=tenant), **fields)
    adapter = decision.adapter.adapter_id if decision.adapter else None
    return {"kind": decision.kind, "reason": decision.reason, "adapter": adapter, "text": text}


if __name__ == "__main__":
    asyncio.run(_serve(**json.loads(sys.argv[1])))
