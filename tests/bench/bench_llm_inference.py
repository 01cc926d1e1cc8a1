"""
The strategy ``llm`` with our own server's base model behind litellm: how well and how slowly?

    python -m tests.bench.bench_llm_inference --out tests/bench/results

One request of each of some common tasks, as a user types it, is named by the model. The named task
counts as right if, of all common tasks' descriptions, the right one is the nearest to it (top-1) or
among the five nearest. Beside it: the same search with the request itself, without any model.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
from openai import OpenAIError

from t2l_router import bootstrap, config, heads
from t2l_router.inference_llm import LlmInference
from t2l_router.reading import Reading
from tests.bench.bench_server import READY_WITHIN_S, workplace
from tests.bench.report import publish, spread
from tests.e2e.program import serving
from training.chat import load_written


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="requests")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds an answer may take")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    settings = config.load()
    encoder = bootstrap.load_writing(settings).encoder
    trained = heads.load(encoder=encoder.fingerprint)
    rng = random.Random(0)
    tasks = rng.sample(load_written()[0], arguments.n)
    asks = [rng.choice(task.asks) for task in tasks]
    right = [trained.tasks.index(task.description) for task in tasks]
    named: list[str | None] = []
    took = []
    variables = {"T2L_CACHE_DIR": str(settings.cache_dir), "T2L_LOG_LEVEL": "warning"}
    with workplace() as cwd, serving(cwd=cwd, **variables) as program:
        program.wait_ready(READY_WITHIN_S)
        inference = LlmInference(
            encoder,
            trained,
            model="openai/t2l:base",
            timeout_s=arguments.timeout,
            options={"api_base": f"{program.url}/v1", "api_key": "none"},
        )
        for ask in asks:
            start = time.perf_counter()
            try:
                named.append(inference.asked(Reading(None, (ask,))))
            except (ValueError, OpenAIError) as error:  # litellm's errors are OpenAI's
                print(f"{type(error).__name__}: {str(error)[:100]}")
                named.append(None)
            took.append(time.perf_counter() - start)
            print(f"{ask[:60]!r} -> {named[-1]!r}", flush=True)
    metrics = {"requests": len(asks), "named": sum(task is not None for task in named)}
    texts = {"llm": [task or "nothing" for task in named], "request": asks}
    for strategy, said in texts.items():
        scores = encoder.embed(said) @ trained.task_embeddings.T
        above = (scores > scores[np.arange(len(right)), right][:, None]).sum(axis=1)
        metrics[f"{strategy}_top1"] = round(float((above < 1).mean()), 3)
        metrics[f"{strategy}_top5"] = round(float((above < 5).mean()), 3)
    times = {"answer_s": spread(took)}
    publish(
        "llm_inference", metrics | times, began=began, out=arguments.out, tasks=len(trained.tasks)
    )


if __name__ == "__main__":
    main()
