"""
What new adapters lose on plain text, and what spoilt ones do: where to set ``max_loss_rise``.

    python -m tests.bench.bench_inspection --corpus FOLDER [--out tests/bench/results]

One adapter for each held-out task, from its first description, measured as the local engine
inspects it. Beside it the same adapter made two, four and eight times as strong: no hypernetwork
wrote those.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from t2l_router import config
from t2l_router.bootstrap import build_router
from t2l_router.engines.base import AdapterRef, MeasuresLoss
from t2l_router.lora import LoraWeights
from t2l_router.router import Router
from tests.bench.report import publish, spread
from tests.e2e.program import HYPERNET
from training.corpus import load_tasks

SPLITS = ("heldout_seen_family", "heldout_unseen_family")
STRENGTHS = (1, 2, 4, 8)


def stronger(weights: LoraWeights, factor: int) -> AdapterRef:
    """The adapter with its effect multiplied."""
    scaled = {name: lora_B * factor for name, lora_B in weights.lora_B.items()}
    made = LoraWeights(weights.spec, weights.lora_A, scaled)
    return AdapterRef(made.adapter_id, made)


async def measure(router: Router, texts: Sequence[str], max_rise: float) -> dict[str, object]:
    """Rises of the loss by strength, and what one measurement takes."""
    engine, maker = router._engine, router._matcher.maker
    assert isinstance(engine, MeasuresLoss), "the local engine"
    base = await engine.neutral_loss(None)
    assert base is not None, "the base model needs no slot"
    rises: dict[int, list[float]] = {strength: [] for strength in STRENGTHS}
    times_ms = []
    for text in texts:
        weights = await maker.generate(await maker.embed(text))
        assert isinstance(weights, LoraWeights), "the hypernetwork's"
        for strength in STRENGTHS:
            adapter = stronger(weights, strength)
            start = time.perf_counter()
            loss = await engine.neutral_loss(adapter)
            times_ms.append((time.perf_counter() - start) * 1_000)
            assert loss is not None, "nobody else is here"
            rises[strength].append(loss - base)
    await router.close()
    shares = {
        f"times_{strength}_quarantined": sum(not rise <= max_rise for rise in found) / len(found)
        for strength, found in rises.items()
    }
    return {
        "base_loss": round(base, 4),
        **{f"times_{strength}_rise": spread(found) for strength, found in rises.items()},
        **shares,
        "measurement_ms": spread(times_ms),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of tasks")
    parser.add_argument("--n", type=int, default=98, help="tasks at most")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    tasks = load_tasks(arguments.corpus, SPLITS)[: arguments.n]
    with tempfile.TemporaryDirectory() as directory:
        settings = config.load({"data_dir": directory, "hypernet": HYPERNET})
        texts = [task.descriptions[0] for task in tasks]
        metrics = asyncio.run(measure(build_router(settings), texts, settings.max_loss_rise))
    publish(
        "inspection",
        metrics,
        began=began,
        out=arguments.out,
        module=f"bench_inspection --corpus FOLDER --n {arguments.n}",
        base_model=settings.base_model,
        hypernet=settings.hypernet,
        dtype=settings.dtype,
        max_loss_rise=settings.max_loss_rise,
        tasks=len(texts),
    )


if __name__ == "__main__":
    main()
