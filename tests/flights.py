"""
Many first requests for one task, from one process or several; how often was an adapter written?

``python -m tests.flights DIRECTORY REQUESTS`` is one of the processes: it says that it is ready,
waits for a line on stdin, asks, and prints what happened as JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from t2l_router.engines.echo_adapters import EchoGenerator
from tests.routers import answer, echo_router

TASK = "Translate English sentences into French"


class SlowGenerator(EchoGenerator):
    """Takes as long as a large hypernetwork on a busy machine, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, embeddings):
        self.calls += 1
        time.sleep(0.2)
        return super().generate(embeddings)


async def ask(directory: Path, n_requests: int, wait=lambda: None) -> dict[str, object]:
    """Send the requests at once; what was written and decided."""
    generator = SlowGenerator()
    router = echo_router(directory, generator=generator, generation_timeout_s=30)
    await asyncio.to_thread(wait)
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(answer(router, t2l_description=TASK) for _ in range(n_requests))
    )
    took_s = time.perf_counter() - start
    await router.close()
    return {
        "generations": generator.calls,
        "kinds": Counter(decision.kind for decision, _ in answers),
        "adapters": sorted({decision.adapter.adapter_id for decision, _ in answers}),
        "took_s": round(took_s, 3),
    }


def ask_from(directory: Path, *, processes: int, requests: int) -> list[dict[str, object]]:
    """The same from several processes over one library, as nearly at once as can be."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.flights", str(directory), str(requests)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdin.close()
            worker.stdout.close()


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(Path(sys.argv[1]), int(sys.argv[2]), _wait))))
