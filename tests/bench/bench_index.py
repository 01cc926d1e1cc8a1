"""
Which of FAISS's indexes serves a large partition: time to build, memory, latency, recall.

    python -m tests.bench.bench_index --out tests/bench/results [--embeddings real.npy]

Recall is that of the ten exact nearest among the forty candidates of one query; the store scores
candidates exactly.
"""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np

from adapters_store.index_faiss import build_ivf
from tests.bench.embeddings import Embeddings

IP = faiss.METRIC_INNER_PRODUCT
EIGHT_BITS = faiss.ScalarQuantizer.QT_8bit
CANDIDATES = 40


def flat(vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def hnsw(vectors):
    index = faiss.IndexHNSWSQ(vectors.shape[1], EIGHT_BITS, 32, IP)
    index.hnsw.efConstruction = 80
    index.train(vectors[:50_000])
    index.add(vectors)
    return index


def ivf_8_bits(vectors):
    count, dim = vectors.shape
    lists = 2 ** round(np.log2(4 * np.sqrt(count)))
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, int(lists), EIGHT_BITS, IP)
    index.cp.niter, index.cp.min_points_per_centroid = 4, 1
    index.train(vectors[: 20 * lists])
    index.add(vectors)
    return index


def effort(index, value):
    """Set how hard an index searches: lists probed, or HNSW's beam."""
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = value
    elif isinstance(index, faiss.IndexRefine):
        faiss.extract_index_ivf(faiss.downcast_index(index.base_index)).nprobe = value
    elif isinstance(index, faiss.IndexIVF):
        index.nprobe = value


KINDS = {
    "flat": (flat, [0]),
    "ivf, 8 bits": (ivf_8_bits, [64, 128, 256]),
    "ivf, fast scan, refined (ours)": (build_ivf, [64, 128, 256]),
    "hnsw, 8 bits": (hnsw, [64, 128, 256]),
}


def measure(build, efforts, vectors, queries, truth):
    start = time.perf_counter()
    index = build(vectors)
    build_s = time.perf_counter() - start
    faiss.omp_set_num_threads(1)
    searches = []
    for value in efforts:
        effort(index, value)
        found, times = 0, []
        for query, wanted in zip(queries, truth, strict=True):
            start = time.perf_counter()
            _, positions = index.search(query[None], CANDIDATES)
            times.append((time.perf_counter() - start) * 1e3)
            found += len(wanted & set(positions[0].tolist()))
        p50, p99 = np.percentile(times, [50, 99])
        searches.append(
            {
                "effort": value,
                "recall_at_10": round(found / 10 / len(queries), 4),
                "p50_ms": round(float(p50), 3),
                "p99_ms": round(float(p99), 3),
            }
        )
    faiss.omp_set_num_threads(os.cpu_count())
    size = len(faiss.serialize_index(index)) / len(vectors)
    return {"build_s": round(build_s, 1), "bytes_per_vector": round(size), "searches": searches}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--embeddings", type=Path, help=".npy of real task embeddings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    source = Embeddings(args.embeddings)
    vectors, queries = source.draw(args.size), source.draw(args.queries, seed=1)
    truth = [set(row.tolist()) for row in flat(vectors).search(queries, 10)[1]]
    metrics = {}
    for name, (build, efforts) in KINDS.items():
        metrics[name] = measure(build, efforts, vectors, queries, truth)
        print(name, metrics[name], flush=True)
    result = {
        "run": {
            "command": f"python -m tests.bench.bench_index --size {args.size}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "setup": {
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "faiss": faiss.__version__,
            "size": args.size,
            "dim": vectors.shape[1],
            "embeddings_real": args.embeddings is not None,
        },
        "metrics": metrics,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "index--cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
