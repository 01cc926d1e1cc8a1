"""
Answers with adapters of tasks that were inferred from the bare input, in two steps.

    python -m training.inferred pack --corpus DIR --split SPLIT --out inferred.safetensors
    python -m training.inferred score --corpus DIR --rows inferred.safetensors --json FILE

The first needs the encoder and the heads of inference; the second runs where `training.evaluate`
does and writes the same kind of results. Strategies, each with one adapter an input:

- ``given``: the task's own description, as `t2l` in evaluations;
- ``nearest``: the description of the corpus task that the head finds;
- ``library``: the one whose example inputs are nearest;
- ``straight``: the embedding that the head moves the input to, without any description;
- ``several``: the same, averaged over all of the task's inputs that are answered;
- ``input``: the input's own embedding.
"""

import argparse
import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from t2l_router import checkpoint
from t2l_router.generator import AdapterGenerator
from training.bench import Bench
from training.conditions import Inputs
from training.corpus import Task, load_tasks
from training.embeddings import Encoder, load_encoder
from training.sampling import sample
from training.scoring import summarise
from training.systems import SYSTEMS, described

SPLITS = "train,train_aux,validation,heldout_seen_family,heldout_unseen_family,benchmark"
Matrix = NDArray[np.float32]
EXAMPLES, DESCRIPTIONS, MAX_CHARS = 8, 4, 320


def described_by(task: Task) -> list[str]:
    """Some descriptions of a task, rich and terse."""
    texts = list(task.descriptions)
    random.Random(f"1 {task.name}").shuffle(texts)  # noqa: S311 - sampling, not secrets
    return [*texts[:DESCRIPTIONS], *task.terse_descriptions]


def centre(encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """The unit mean of some descriptions of a task, ``[D]``."""
    mean = encoder.embed(described_by(task)).mean(axis=0)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
    return unit


def known_inputs(task: Task, limit: int, seed: int, n: int = EXAMPLES) -> list[str]:
    """Some inputs of a task, none of those that are answered."""
    texts = [example.text[:MAX_CHARS] for example in task.examples("train")]
    random.Random(f"0 {task.name}").shuffle(texts)  # noqa: S311 - sampling, not secrets
    others = [e.text[:MAX_CHARS] for e in sample(task, limit + n, seed)[0][limit:]]
    return texts[:n] or others or described_by(task)


def pack(args: argparse.Namespace) -> dict[str, Matrix]:
    """Embed what each strategy makes each answered input's adapter from."""
    # Lazy: they need more than a machine has that only scores.
    from t2l_router import heads  # noqa: PLC0415
    from t2l_router.encoder import TaskEncoder  # noqa: PLC0415
    from t2l_router.inference_library import nearness  # noqa: PLC0415
    from training.infer_head import CachedEncoder  # noqa: PLC0415

    hypernet = checkpoint.from_pretrained(args.checkpoint)
    real = load_encoder(hypernet.config.encoder, lora=checkpoint.encoder_lora(args.checkpoint))
    encoder = CachedEncoder(real, args.cache)
    assert isinstance(real, TaskEncoder), "heads read an encoder that has a fingerprint"
    trained = heads.load(encoder=real.fingerprint)
    library = load_tasks(args.corpus, SPLITS.split(","))
    answered = load_tasks(args.corpus, args.split.split(","))
    texts = [[e.text for e in sample(task, args.limit, args.seed)[0]] for task in answered]
    flat = [text[:MAX_CHARS] for row in texts for text in row]
    known = {task.name: known_inputs(task, args.limit, args.seed) for task in library}
    encoder.embed([t for task in library for t in (*described_by(task), *known[task.name])])
    inputs = encoder.embed(flat)
    encoder.save()
    given = encoder.embed(described(library, "description", args.seed))
    centres = np.stack([centre(encoder, task) for task in library])
    seen = [text for task in library if task.split == "train" for text in known[task.name][:2]]
    # How near any input is to each description, which says nothing about the input.
    moved = trained.in_task_space(encoder.embed(seen)) @ centres.T
    bias = np.sort(moved, axis=0)[-10:].mean(axis=0) / 2
    straight = trained.in_task_space(inputs)
    examples = [encoder.embed(known[task.name]) for task in library]
    ends = np.cumsum([0, *map(len, texts)])
    means = [straight[a:b].mean(axis=0) for a, b in pairwise(ends)]
    own = encoder.embed(described(answered, "description", args.seed))
    counts = [len(row) for row in texts]
    return {
        "given": np.repeat(own, counts, axis=0),
        "nearest": given[(straight @ centres.T - bias).argmax(axis=1)],
        "library": given[[int(nearness(row, examples).argmax()) for row in inputs]],
        "straight": straight,
        "several": np.repeat([mean / np.linalg.norm(mean) for mean in means], counts, axis=0),
        "input": inputs,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """An encoder that gives the same rows whatever it is asked: one for each answered input."""

    rows: Matrix

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Give them."""
        assert len(texts) == len(self.rows), "rows and evaluation draw the same inputs"
        return self.rows


def score(args: argparse.Namespace) -> dict[str, object]:
    """Answer with every strategy's adapters."""
    began = time.monotonic()
    with safe_open(args.rows, "np") as file:
        facts = json.loads(file.metadata()["facts"])
        strategies = {name: file.get_tensor(name) for name in json.loads(facts["strategies"])}
    lora = checkpoint.from_pretrained(facts["checkpoint"]).config.lora
    generator = AdapterGenerator.load(facts["checkpoint"], base=lora, device=args.device)
    tasks = load_tasks(args.corpus, facts["split"].split(","))
    drawn = [sample(task, facts["limit"], facts["seed"]) for task in tasks]
    inputs = Inputs(
        tasks,
        [e for e, _ in drawn],
        [shots for _, shots in drawn],
        Rows(np.zeros((0, 1), np.float32)),
    )
    bench = Bench(inputs, generator, args.max_new_tokens, args.batch)
    bench.load_base(args.base or lora.base_model, device=args.device)
    metrics = {"none": summarise(bench.score(SYSTEMS["base"], seed=0, draws=1))}
    for name, rows in strategies.items():
        bench.inputs = dataclasses.replace(inputs, encoder=Rows(rows.astype(np.float32)))
        metrics[name] = summarise(bench.score(SYSTEMS["hyperdecoder"], seed=0, draws=1))
        print(f"{name}: ROUGE-L {metrics[name]['rouge_l']:.1f}", file=sys.stderr, flush=True)
    is_cuda = args.device.startswith("cuda")
    setup = {
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "torch": torch.__version__,
        "base_model": lora.base_model,
        "hypernet_id": generator.hypernet_id,
        "max_new_tokens": args.max_new_tokens,
        "refused": bench.refused,
    }
    run = {"command": "python -m training.inferred score", "seconds": time.monotonic() - began}
    return {"run": run, "setup": setup | facts, "metrics": metrics}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Score adapters of inferred tasks.")
    parser.add_argument("step", choices=["pack", "score"])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--split", default="heldout_seen_family,heldout_unseen_family")
    parser.add_argument("--limit", type=int, default=10, help="inputs a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default=checkpoint.SENTENCES)
    parser.add_argument("--cache", type=Path, help="of embeddings")
    parser.add_argument("--rows", type=Path, help="what pack wrote")
    parser.add_argument("--base", default="", help="directory or name; default: the checkpoint's")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="of pack")
    parser.add_argument("--json", type=Path, help="of score")
    args = parser.parse_args(argv)
    if args.step == "pack":
        rows = pack(args)
        facts = {"split": args.split, "limit": args.limit, "seed": args.seed}
        facts |= {"checkpoint": args.checkpoint, "strategies": json.dumps(list(rows))}
        save_file(rows, args.out, metadata={"facts": json.dumps(facts)})
    else:
        args.json.write_text(json.dumps(score(args), indent=1) + "\n")


if __name__ == "__main__":
    main()
