"""
What the integrations add: imports, calls beside openai-python, a stream's first chunk.

    python -m tests.bench.bench_integrations --out tests/bench/results

All callers ask the same `t2l serve --engine echo` in a process of its own, in turns, so that a
busy machine weighs on each of them alike. Imports are timed in fresh processes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from integrations.langchain import ChatT2L
from t2l_router.bootstrap import build_router
from t2l_router.client import HttpClient
from t2l_router.config import Settings
from tests.bench.bench_server import MESSAGES, READY_WITHIN_S, workplace
from tests.bench.report import publish, spread
from tests.e2e.program import HYPERNET, serving

TASK = {"t2l_description": "Answer briefly"}
TURNS = [("user", MESSAGES[0]["content"])]

# What a chat model of LangChain's own packages imports, ours measured beyond it.
_IMPORT = """
import time
import langchain_core.language_models.chat_models, langchain_core.output_parsers
import langchain_core.tools, langchain_core.utils.function_calling
import langchain_core.output_parsers.openai_tools
start = time.perf_counter()
import integrations.langchain
print(time.perf_counter() - start)
"""


def measure_import(times: int) -> dict[str, float]:
    """Seconds that our package takes beyond langchain-core."""
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout))
    return spread(found)


def measure_calls(callers: dict[str, Callable[[], Any]], n: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each caller's calls, made in turns."""
    found: dict[str, list[float]] = {name: [] for name in callers}
    for i in range(n + 20):
        for name, call in callers.items():
            start = time.perf_counter()
            call()
            if i >= 20:
                found[name].append((time.perf_counter() - start) * 1_000)
    return {name: spread(times) for name, times in found.items()}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000, help="calls of each kind")
    parser.add_argument("--imports", type=int, default=10)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    metrics: dict[str, Any] = {"import_s": measure_import(arguments.imports)}
    with (
        workplace() as cwd,
        serving("--engine", "echo", cwd=cwd, T2L_LOG_LEVEL="warning") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as reference,
    ):
        server.wait_ready(READY_WITHIN_S)
        ours = HttpClient(server.url)
        llm = ChatT2L(base_url=server.url, model="echo", **TASK)
        router = build_router(Settings(engine="echo", hypernet=HYPERNET, data_dir=cwd / "library"))
        local = ChatT2L(router=router, model="echo", **TASK)
        body = {"model": "echo", "messages": MESSAGES} | TASK
        create = reference.chat.completions.create
        asked = {"model": "echo", "messages": MESSAGES, "extra_body": TASK}
        plain = {
            "openai": lambda: create(**asked),
            "client": lambda: ours.chat(body),
            "chat_t2l": lambda: llm.invoke(TURNS),
            "chat_t2l_in_process": lambda: local.invoke(TURNS),
        }
        # To the first chunk: the rest is left, as a reader does who has seen enough.
        first = {
            "openai": lambda: _first(create(**asked, stream=True)),
            "client": lambda: _first(ours.stream(body)),
            "chat_t2l": lambda: _first(llm.stream(TURNS)),
        }
        metrics |= {f"{k}_plain_ms": v for k, v in measure_calls(plain, arguments.n).items()}
        metrics |= {f"{k}_first_ms": v for k, v in measure_calls(first, arguments.n).items()}
        local.client.close()
        ours.close()
        llm.client.close()
    for name in ("client", "chat_t2l"):
        for kind in ("plain", "first"):
            beyond = metrics[f"{name}_{kind}_ms"]["median"] - metrics[f"openai_{kind}_ms"]["median"]
            metrics[f"{name}_{kind}_beyond_openai_ms"] = round(beyond, 3)
    publish("integrations", metrics, began=began, out=arguments.out)


def _first(chunks: Any) -> None:
    next(iter(chunks))
    chunks.close()


if __name__ == "__main__":
    main()
