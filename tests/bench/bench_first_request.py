"""
How long ``t2l serve`` takes to be ready and to answer its first request with examples.

    python -m tests.bench.bench_first_request --out tests/bench/results

In turns with threads that wait for each other as t2l sets it, and as GNU's OpenMP does by itself.
The difference shows where other programs keep the cores busy; the report has the load average.
"""

import argparse
import tempfile
import time
from pathlib import Path

import httpx

from t2l_router import config
from tests.bench.bench_reading import EXAMPLES, HELLO, HYPERNET
from tests.bench.report import publish, spread
from tests.e2e.program import serving

SPINS = {"ours": "1000", "openmp": "300000"}
PHASES = ("embed", "read", "generate")


def start(spins: str) -> dict[str, float]:
    """Seconds until a server is ready, milliseconds that two requests wait for their adapters."""
    given = config.load()
    variables = {
        "GOMP_SPINCOUNT": spins,
        "T2L_CACHE_DIR": str(given.cache_dir),
        "T2L_HYPERNET": HYPERNET,
        "T2L_GENERATION_TIMEOUT_S": "60",
    }
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as cwd, serving(cwd=Path(cwd), **variables) as program:
        program.wait_ready()
        found = {"ready_s": time.perf_counter() - began}
        for i, name in enumerate(("first", "second")):
            shown = [{"input": text.format(i), "output": output} for text, output in EXAMPLES]
            body = {"model": given.base_model, "max_tokens": 8, "t2l_examples": shown}
            body["messages"] = [{"role": "user", "content": HELLO[0].content}]
            url = f"{program.url}/v1/chat/completions"
            told = httpx.post(url, json=body, timeout=300).raise_for_status().json()["t2l"]
            assert told["decision"] == "generated", told
            found[f"{name}_adapter_ms"] = sum(told["timing_ms"].get(p, 0) for p in PHASES)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5, help="starts of each kind")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    found: dict[str, list[float]] = {}
    for _ in range(arguments.n):
        for kind, spins in SPINS.items():
            for name, value in start(spins).items():
                found.setdefault(f"{kind}_{name}", []).append(value)
    metrics = {name: spread(values) for name, values in found.items()}
    publish("first_request", metrics, began=began, out=arguments.out, hypernet=HYPERNET)


if __name__ == "__main__":
    main()
