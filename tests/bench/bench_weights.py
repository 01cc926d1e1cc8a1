"""
What the forms of a base model's weights cost on this host, for one row, a few and many.

    python -m tests.bench.bench_weights --out tests/bench/results

Every form multiplies matrices of the same shape in turn, enough of them not to stay in a cache.
Native ones are there where the kernels run; those in 4 bits as a Q4_1 file gives them.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2l_router import config
from t2l_router.engines.native.build import library
from t2l_router.engines.native.weights import NativeLinear
from t2l_router.engines.quantise import GROUP, Int4Linear, Int8Linear, PackedLinear
from tests.bench.report import publish, spread

SHAPES = {"attention": (576, 576), "mlp": (1_536, 576), "output": (49_152, 576)}
N_BYTES = 48 << 20  # of bfloat16 weights a form


def seconds(linears: Sequence[Callable[[Tensor], Tensor]], rows: Tensor) -> float:
    """Mean time of one product."""
    start = time.perf_counter()
    for linear in linears:
        linear(rows)
    return (time.perf_counter() - start) / len(linears)


def forms(d_out: int, d_in: int) -> dict[str, tuple[list[nn.Module], torch.dtype]]:
    """The same matrices in every form."""
    n = max(1, N_BYTES // (2 * d_out * d_in))
    linears = [nn.Linear(d_in, d_out, bias=False) for _ in range(n)]
    for linear in linears:
        linear.requires_grad_(requires_grad=False)
    bfloat16 = [nn.Linear(d_in, d_out, bias=False, dtype=torch.bfloat16) for _ in range(n)]
    made: dict[str, tuple[list[nn.Module], torch.dtype]] = {
        "float32": (list(linears), torch.float32),
        "plain": (list(bfloat16), torch.bfloat16),
        "bfloat16": ([PackedLinear(linear) for linear in linears], torch.bfloat16),
        "int8": ([Int8Linear(linear) for linear in linears], torch.bfloat16),
        "int4": ([Int4Linear(linear) for linear in linears], torch.bfloat16),
    }
    kernels = library(config.load({}).cache_dir)
    if kernels is not None:
        made["native"] = ([NativeLinear(linear, kernels) for linear in linears], torch.bfloat16)
        for linear in linears:
            linear.weight.copy_(in_4_bits(linear.weight))
        made["native_4"] = ([NativeLinear(linear, kernels) for linear in linears], torch.bfloat16)
    return made


def in_4_bits(weight: Tensor) -> Tensor:
    """The weights of a Q4_1 file."""
    groups = weight.unflatten(1, (-1, GROUP))
    least, most = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scales, zeros = ((most - least) / 15).half().float(), least.half().float()
    integers = ((groups - least) / ((most - least) / 15)).round()
    made: Tensor = (integers * scales + zeros).flatten(1)
    return made


@torch.inference_mode()
def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    metrics: dict[str, Any] = {}
    for shape, (d_out, d_in) in SHAPES.items():
        made = forms(d_out, d_in)
        for n_rows in arguments.rows:
            found: dict[str, list[float]] = {name: [] for name in made}
            for turn in range(arguments.repeats + 1):
                for name, (linears, dtype) in made.items():
                    micros = 1e6 * seconds(linears, torch.randn(n_rows, d_in).to(dtype))
                    if turn:  # the first one warms up
                        found[name].append(micros)
            for name, micros_of in found.items():
                metrics[f"{shape}_{n_rows}_rows_{name}_us"] = spread(micros_of)
    publish(
        "weights",
        metrics,
        began=began,
        out=arguments.out,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    main()
