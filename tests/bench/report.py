"""What every benchmark reports in the same form: times, the machine, the commit."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "sentence-transformers", "fastapi", "uvicorn", "pydantic")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, extremes and number of measurements."""
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3),
        "min": round(ordered[0], 3),
        "max": round(ordered[-1], 3),
        "n": len(ordered),
    }


def resident_mib(process_id: int, field: str = "VmRSS") -> float:
    """Memory of a process in RAM, file pages included; ``RssAnon`` leaves those out."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1_024
    raise RuntimeError(f"process {process_id} has no {field}")


def publish(
    name: str,
    metrics: dict[str, Any],
    *,
    began: float,
    out: Path | None,
    module: str | None = None,
    **setup: Any,
) -> None:
    """
    Print a table, then one line of JSON; the same goes to *out*, if given.

    Args:
        name: Of the benchmark.
        metrics: What `spread` gave, or single numbers.
        began: `time.perf_counter` at the start.
        out: Directory of results.
        module: Of the benchmark, if it isn't ``bench_`` and its name; with dots if elsewhere, and
            with flags that the figures depend on.
        setup: What else the figures depend on.
    """
    program = module or f"bench_{name}"
    if "." not in program:
        program = f"tests.bench.{program}"
    for key, value in metrics.items():
        if isinstance(value, dict):
            print(f"{key:<34}{value['median']:>10.2f}  p95 {value['p95']:>8.2f}  n {value['n']}")
        else:
            print(f"{key:<34}{value:>10.2f}")
    document = {
        "run": {
            "command": f"python -m {program}",
            "commit": _git("rev-parse", "--short", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.perf_counter() - began, 1),
        },
        "setup": {
            "device": f"cpu, {os.cpu_count()} cores, {platform.machine()}",
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "packages": {package: version(package) for package in PACKAGES},
        }
        | setup,
        "metrics": metrics,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}--cpu.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()
