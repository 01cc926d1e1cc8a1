"""
Growth of the adapter library: search, add, list and open, from 10^3 to 10^6 descriptions.

    python -m tests.bench.bench_library --work DIR --out tests/bench/results [--embeddings E.npy]

Each library is filled by SQL (ten descriptions an adapter, adapters without files) and then used
through `AdapterStore` alone; the adapters that are added one by one for the timing are whole, of
the size of those of `default-sentences`, and synced to the disk.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import faiss
import numpy as np
import sqlalchemy

from adapters_store import AdapterStore, StoreConfig, Task
from adapters_store.maintenance import PrunePolicy
from adapters_store.names import text_hash
from adapters_store.schema import (
    adapters,
    descriptions,
    embeddings,
    encoders,
    library,
    partitions,
)
from tests.adapter_files import BASE, ENCODER, make_files
from tests.bench.embeddings import Embeddings

PER_ADAPTER = 10
TENANT = "bench"


def fill(store, vectors, count):
    """Insert *count* descriptions and their adapters by SQL, in one transaction."""
    now = datetime.now(UTC)
    with store.ledger.change() as change:
        run = change.connection.execute
        run(library.insert().values(key="active_encoder", value=ENCODER))
        run(encoders.insert().values(id=1, fingerprint=ENCODER, dim=vectors.real.shape[1]))
        run(partitions.insert().values(id=1, tenant=TENANT, base=BASE, encoder_id=1))
        done = 0
        for block in vectors.blocks(count, per_task=PER_ADAPTER):
            first_adapter, n_adapters = done // PER_ADAPTER, len(block) // PER_ADAPTER
            run(adapters.insert(), [adapter_row(first_adapter + i, now) for i in range(n_adapters)])
            rows = [(done + i, f"Task description number {done + i}") for i in range(len(block))]
            run(
                descriptions.insert(),
                [
                    {
                        "id": i + 1,
                        "adapter_pk": i // PER_ADAPTER + 1,
                        "text": text,
                        "text_hash": text_hash(text),
                        "source": "bench",
                        "created_at": now,
                    }
                    for i, text in rows
                ],
            )
            run(
                embeddings.insert(),
                [
                    {"partition_id": 1, "description_id": i + 1, "vector": vector.tobytes()}
                    for (i, _), vector in zip(rows, block, strict=True)
                ],
            )
            done += len(block)


def adapter_row(i, now):
    return {
        "pk": i + 1,
        "id": f"t2l-{i:032x}",
        "tenant": TENANT,
        "state": "generated",
        "base": BASE,
        "base_model": "bench",
        "rank": 8,
        "alpha": 16.0,
        "rslora": True,
        "target_modules": "q_proj,v_proj",
        "size_bytes": 1_106_000,
        "delta_norm": 1.0,
        "origin": "generated",
        "created_at": now,
    }


def truth(vectors, count, queries, k):
    """The keys of the *k* nearest adapters of each query, by comparison with everything."""
    best = np.full((len(queries), 0), 0, np.float32)
    keys = np.full((len(queries), 0), 0)
    done = 0
    for block in vectors.blocks(count, per_task=PER_ADAPTER):
        scores = queries @ block.T
        per_adapter = scores.reshape(len(queries), -1, PER_ADAPTER).max(axis=2)
        first = done // PER_ADAPTER + 1
        owners = np.broadcast_to(np.arange(first, first + per_adapter.shape[1]), per_adapter.shape)
        best, keys = np.hstack([best, per_adapter]), np.hstack([keys, owners])
        top = np.argsort(-best, axis=1)[:, :k]
        best, keys = np.take_along_axis(best, top, 1), np.take_along_axis(keys, top, 1)
        done += len(block)
    return [set(row) for row in keys]


def timed(action):
    """The action's result, its milliseconds, and those that this thread's processor worked."""
    start, worked = time.perf_counter(), time.thread_time()
    result = action()
    return result, ((time.perf_counter() - start) * 1e3, (time.thread_time() - worked) * 1e3)


def spread(rounds):
    """
    Median over the rounds of each round's percentiles, and those of the quietest round.

    A round is a list of (milliseconds, processor milliseconds). The machine may be shared: the
    quietest round says what the code takes, the median what it took.
    """
    found = {"rounds": len(rounds), "n": len(rounds[0])}
    for prefix, column in (("", 0), ("cpu_", 1)):
        for percentile in (50, 95, 99):
            values = [np.percentile([t[column] for t in times], percentile) for times in rounds]
            found[f"{prefix}p{percentile}"] = round(float(np.median(values)), 3)
            found[f"{prefix}p{percentile}_quietest"] = round(float(min(values)), 3)
    return found


def disk_mib(directory):
    """What all files below a directory take."""
    return round(sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / 2**20)


def prepare(vectors, count, directory):
    """Fill a library and build its index, unless an earlier run did."""
    notes = directory / "bench.json"
    if not notes.exists():
        with AdapterStore.open(StoreConfig.in_directory(directory)) as store:
            _, (fill_ms, _) = timed(lambda: fill(store, vectors, count))
            _, (load_ms, _) = timed(lambda: store.index.refresh(1))
            _, (build_ms, _) = timed(store.index.wait)
        times = {"fill_ms": fill_ms, "load_from_sql_ms": load_ms, "build_lists_ms": build_ms}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        notes.write_text(
            json.dumps({name: round(ms) for name, ms in times.items()} | {"peak_mib": round(peak)})
        )
    return json.loads(notes.read_text())


def measure(vectors, count, directory, *, rounds, n_queries, n_adds):
    prepared = prepare(vectors, count, directory)
    store, (open_ms, _) = timed(lambda: AdapterStore.open(StoreConfig.in_directory(directory)))
    with store:
        queries = vectors.draw(n_queries, seed=1)
        scope = {"tenant": TENANT, "base": BASE, "encoder": ENCODER, "k": 10}
        _, (first_ms, _) = timed(lambda: store.search(queries[0], **scope))
        found = [{hit.adapter.key for hit in store.search(q, **scope)} for q in queries]
        wanted = truth(vectors, count, queries, 10)
        recall = np.mean([len(a & b) / 10 for a, b in zip(found, wanted, strict=True)])
        searches = [
            [timed(lambda q=q: store.search(q, **scope))[1] for q in queries] for _ in range(rounds)
        ]
        lists = [
            [timed(lambda: store.page(tenant=TENANT, limit=50))[1] for _ in range(20)]
            for _ in range(rounds)
        ]
        adds = [add_and_forget(store, vectors, n_adds, seed) for seed in range(rounds)]
        kind = store.index.refresh(1).kind
    return {
        "descriptions": count,
        "adapters": count // PER_ADAPTER,
        "index": kind,
        "search_ms": spread(searches),
        "recall_at_10": round(float(recall), 4),
        "add_ms": spread(adds),
        "list_newest_50_ms": spread(lists),
        "open_ms": round(open_ms, 1),
        "index_load_and_first_search_ms": round(first_ms, 1),
        **prepared,
        "disk_mib": disk_mib(directory),
        "load_average": os.getloadavg()[0],
    }


def add_and_forget(store, vectors, count, seed):
    """Times of adding whole adapters, which are purged again."""
    times = []
    for i, vector in enumerate(vectors.draw(count, seed=100 + seed)):
        shape = {"layers": 30, "rank": 8, "d_in": 576, "d_out": 384, "dtype": np.float16}
        files = make_files(seed * count + i, **shape)
        task = Task(f"A new task {i}", vector, ENCODER)
        record, spent = timed(
            lambda f=files, t=task: store.add(f, tenant=TENANT, base=BASE, task=t)
        )
        times.append(spent)
        store.delete(record.id, tenant=TENANT)
    policy = PrunePolicy(purge_after=timedelta(0))
    store.maintenance.apply(store.maintenance.plan(policy))
    return times


def plot(metrics, path):
    """Draw the growth curves, with the limits that they must stay below."""
    import matplotlib as mpl  # noqa: PLC0415 - only the plot needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    def column(name, percentile):
        return [m[name][percentile] for m in metrics]

    sizes = [m["descriptions"] for m in metrics]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    lines = [
        ("search p99 (limit 5)", column("search_ms", "p99_quietest"), "C0", 5),
        ("search p50", column("search_ms", "p50_quietest"), "C0", None),
        ("add p50, synced (limit 15)", column("add_ms", "p50_quietest"), "C1", 15),
        ("list newest 50 p50", column("list_newest_50_ms", "p50_quietest"), "C2", None),
        ("open", [m["open_ms"] for m in metrics], "C3", None),
    ]
    for label, values, color, limit in lines:
        style = "--" if label.endswith("search p50") else "-"
        axes.plot(sizes, values, style, marker="o", color=color, label=label)
        if limit:
            axes.axhline(limit, color=color, linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="descriptions in the library",
        ylabel="ms, quietest round",
    )
    axes.legend(fontsize=8)
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=400, help="a round")
    parser.add_argument("--adds", type=int, default=30, help="a round")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="keeps the libraries for another run",
    )
    parser.add_argument("--embeddings", type=Path, help=".npy of real task embeddings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    began = time.time()
    vectors = Embeddings(args.embeddings)
    metrics = []
    for size in args.sizes:
        directory = args.work / str(size)
        found = measure(
            vectors,
            size,
            directory,
            rounds=args.rounds,
            n_queries=args.queries,
            n_adds=args.adds,
        )
        print(json.dumps(found), file=sys.stderr, flush=True)
        metrics.append(found)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "run": {
            "command": "python -m tests.bench.bench_library",
            "commit": commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.time() - began),
        },
        "setup": {
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "python": platform.python_version(),
            "faiss": faiss.__version__,
            "sqlalchemy": sqlalchemy.__version__,
            "threads": faiss.omp_get_max_threads(),
            "embeddings": vectors.real.shape,
            "embeddings_real": args.embeddings is not None,
        },
        "metrics": metrics,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "library--cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(metrics, args.out / "library--cpu.png")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
