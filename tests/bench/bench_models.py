"""
Time from a pulled model on the disk to one in memory, verified, and the time of one embedding.

    python tests/bench/bench_models.py --out tests/bench/results

Each run is a process of its own. ``load_base_cold_s`` includes what transformers imports lazily at
the first use of an architecture, ``load_base_s`` does not; neither includes ``import torch`` and
``import transformers`` themselves.
"""

# ruff: noqa: PLC0415 - imports are what is timed
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import platformdirs

BASE, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
DESCRIPTION = "Answer a question about biology with a single word"


def resident_mib() -> float:
    """Memory of this process in RAM, file pages included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def measure(cache_dir: Path) -> dict[str, float]:
    """Load both default models once, in this process."""
    clock = time.perf_counter
    start = clock()
    import torch
    import transformers  # noqa: F401

    found = {"import_s": clock() - start}
    from t2l_router.models import load_base, pull, verify

    base, encoder = pull(BASE, cache_dir=cache_dir), pull(ENCODER, cache_dir=cache_dir)
    for name, step in {
        "verify_base_s": lambda: verify(base),
        "load_base_cold_s": lambda: load_base(base, dtype=torch.bfloat16, device="cpu"),
        "load_base_s": lambda: load_base(base, dtype=torch.bfloat16, device="cpu"),
    }.items():
        start = clock()
        model = step()
        found[name] = clock() - start
    start = clock()
    from t2l_router.encoder import TaskEncoder

    task_encoder = TaskEncoder.load(encoder)
    found["load_encoder_cold_s"] = clock() - start
    times = []
    for _ in range(60):
        start = clock()
        task_encoder.embed([DESCRIPTION])
        times.append((clock() - start) * 1e3)
    found["embed_one_ms"] = statistics.median(times[10:])
    found["embed_one_p95_ms"] = statistics.quantiles(times[10:], n=20)[-1]
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        model[0](ids)  # touches every weight: until then they are only mapped
    found["resident_mib"] = resident_mib()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache-dir", type=Path, default=platformdirs.user_cache_path("t2l"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the JSON document")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.cache_dir)))
        return
    command = [sys.executable, __file__, "--once", "--cache-dir", str(arguments.cache_dir)]
    began = time.perf_counter()
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(arguments.runs)
    ]
    metrics = {
        name: {
            "median": round(statistics.median(run[name] for run in runs), 3),
            "max": round(max(run[name] for run in runs), 3),
            "n": len(runs),
        }
        for name in runs[0]
    }
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    document = {
        "run": {
            "command": "python tests/bench/bench_models.py",
            "commit": commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.perf_counter() - began, 1),
        },
        "setup": {
            "device": f"cpu, {os.cpu_count()} cores, {platform.machine()}",
            "load_average": os.getloadavg()[0],
            "packages": {
                name: version(name)
                for name in ("torch", "transformers", "sentence-transformers", "safetensors")
            },
            "models": [BASE, ENCODER],
            "dtype": "bfloat16",
        },
        "metrics": metrics,
    }
    for name, value in metrics.items():
        print(f"{name:<22}{value['median']:>10.3f}{value['max']:>10.3f}")
    if arguments.out:
        (arguments.out / "models--cpu.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
