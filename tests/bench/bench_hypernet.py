"""
Time of one hypernetwork forward, beside the floor set by bytes and floating-point operations.

    python tests/bench/bench_hypernet.py --device cuda --out tests/bench/results
"""

import argparse
import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec, ModuleShape

BASES = {
    "mistral-7b": (32, {"q_proj": (4096, 4096), "v_proj": (4096, 1024)}),
    "smollm2-135m": (30, {"q_proj": (576, 576), "v_proj": (576, 192)}),
}


def spec_of(base: str) -> LoraSpec:
    n_layers, shapes = BASES[base]
    modules = tuple(
        ModuleShape(name, f"model.layers.{{layer}}.self_attn.{name}", d_in, d_out)
        for name, (d_in, d_out) in sorted(shapes.items())
    )
    return LoraSpec(base, "", n_layers, modules)


def seconds(hypernet: Hypernet, task: torch.Tensor, repeat: int) -> list[float]:
    """Time single forwards after a warm-up, by device events on CUDA and by the clock elsewhere."""
    times = []
    for i in range(repeat + 5):
        if task.is_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            hypernet(task)
            end.record()
            torch.cuda.synchronize()
            elapsed = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            hypernet(task)
            elapsed = time.perf_counter() - began
        if i >= 5:
            times.append(elapsed)
    return times


def ceilings(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Measure bytes/s of a large copy and FLOP/s of a large matrix product on this device."""
    size = 2**28 if device == "cuda" else 2**25
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    n = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best_copy = best_product = float("inf")
    for _ in range(8):
        for work in ("copy", "product"):
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            target.copy_(source) if work == "copy" else left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - began
            if work == "copy":
                best_copy = min(best_copy, elapsed)
            else:
                best_product = min(best_product, elapsed)
    return 2 * size / best_copy, 2 * n**3 / best_product


def measure(base: str, variant: str, batch: int, dtype: torch.dtype, device: str) -> dict:
    spec = spec_of(base)
    config = HypernetConfig(spec, 1024, "gte", "", variant=variant)
    hypernet = Hypernet(config).to(device, dtype).eval()
    task = torch.nn.functional.normalize(torch.randn(batch, 1024, device=device), dim=-1).to(dtype)
    with torch.inference_mode():
        times = seconds(hypernet, task, 50 if device == "cuda" else 15)
        outputs = sum(t.nbytes for pair in hypernet(task).values() for t in pair)
    weights = sum(p.nbytes for p in hypernet.parameters())
    rows = batch * spec.n_layers * {"L": 1, "M": 2, "S": 2 * spec.rank}[variant]
    flops = 2 * rows * sum(head.weight.numel() for head in hypernet.heads.values())
    copy, product = ceilings(device, dtype)
    floor = max((weights + outputs) / copy, flops / product)
    return {
        "base": base,
        "variant": variant,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
        "p50_ms": 1e3 * statistics.median(times),
        "p95_ms": 1e3 * sorted(times)[int(0.95 * len(times))],
        "n": len(times),
        "floor_ms": 1e3 * floor,
        "floor_bytes_ms": 1e3 * (weights + outputs) / copy,
        "floor_flops_ms": 1e3 * flops / product,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    rows = []
    for base in BASES:
        for batch in (1, 64):
            if args.device == "cpu" and batch == 64 and base == "mistral-7b":
                continue  # 900 MB of output a forward: nobody does this on a CPU
            for dtype in (torch.float32, torch.bfloat16):
                row = measure(base, "L", batch, dtype, args.device)
                rows.append(row)
                print(
                    f"{base:14} {row['dtype']:9} batch {batch:3}  p50 {row['p50_ms']:8.3f} ms  "
                    f"floor {row['floor_ms']:8.3f} ms",
                    file=sys.stderr,
                )
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    document = {
        "run": {
            "command": f"python tests/bench/bench_hypernet.py --device {args.device}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "setup": {"device": device, "torch": torch.__version__, "seed": 0},
        "metrics": rows,
    }
    if args.out:
        name = device.lower().replace(" ", "-")
        (args.out / f"hypernet--{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
