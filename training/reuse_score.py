"""
Losses of adapters on tasks' own examples: many adapters a batch, each row with its own.

    python -m training.reuse_score --pack reuse.safetensors --base DIR --out losses.json

Needs torch, transformers and a checkpoint; no encoder, no library, no corpus.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import PreTrainedModel

from t2l_router import checkpoint
from t2l_router.engines.slots import SlotBank
from t2l_router.generator import AdapterGenerator
from training.base import find_model, load_frozen
from training.reuse_offers import Pack

_SLOTS = 64
Losses = dict[tuple[int, int], list[float]]
_Row = tuple[int, int, int, list[int], int]  # slot, task, example, ids, length of the answer


def wanted(pack: Pack) -> dict[int, set[int]]:
    """Which adapters, by their embeddings' rows, are scored on which tasks' examples."""
    tasks: dict[int, set[int]] = defaultdict(set)
    for offer in pack.offers:
        if offer.task >= 0:
            tasks[offer.fresh].add(offer.task)
            tasks[offer.held].add(offer.task)
    for task, rows in enumerate(pack.wordings):
        for row in rows:
            tasks[row].add(task)
    return tasks


def score(
    pack: Pack, model: PreTrainedModel, generator: AdapterGenerator, *, tokens: int
) -> Losses:
    """
    Give the mean loss of each example's answer, nats a token.

    Args:
        pack: What to score.
        model: The base model; its target modules are replaced.
        generator: Writes the adapters.
        tokens: Padded tokens in one batch.

    Returns:
        (task, row of the adapter's embedding) -> losses in the order of the task's examples.
    """
    bank = SlotBank(model, generator.spec, _SLOTS)
    jobs = wanted(pack)
    rows = sorted(jobs)
    losses: Losses = {
        (task, row): [0.0] * len(pack.examples[task]) for row in rows for task in jobs[row]
    }
    for start in range(0, len(rows), _SLOTS):
        chosen = rows[start : start + _SLOTS]
        for slot, weights in enumerate(generator.generate(pack.embeddings[chosen]), 1):
            bank.insert(slot, weights)
        asked = [
            (slot, task, i, ids, n)
            for slot, row in enumerate(chosen, 1)
            for task in sorted(jobs[row])
            for i, (ids, n) in enumerate(pack.examples[task])
        ]
        for batch in _batches(sorted(asked, key=lambda row: len(row[3])), tokens):
            found = _losses(model, bank, batch, pad=pack.facts["pad"])
            for (slot, task, i, _, _), loss in zip(batch, found, strict=True):
                losses[task, chosen[slot - 1]][i] = loss
        print(f"{start + len(chosen)} of {len(rows)} adapters", file=sys.stderr, flush=True)
    return losses


def _batches(rows: Sequence[_Row], tokens: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:  # shortest first: the row that comes is the longest
        if batch and (len(batch) + 1) * len(row[3]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, bank: SlotBank, batch: Sequence[_Row], *, pad: int
) -> list[float]:
    longest = max(len(ids) for _, _, _, ids, _ in batch)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for _, _, _, row, _ in batch])
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for i, (_, _, _, row, n) in enumerate(batch):
        answers[i, len(row) - n : len(row)] = True
    ids, predicting = ids.to(model.device), answers[:, 1:].to(model.device)
    with bank.rows([slot for slot, *_ in batch]):
        # Padding stands behind: causal attention hides it from everything that counts.
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][predicting]).float()
    each = F.cross_entropy(logits, ids[:, 1:][predicting], reduction="none")
    sums = torch.zeros(len(batch), device=each.device)
    sums.index_add_(0, predicting.nonzero()[:, 0], each)
    means: list[float] = (sums / predicting.sum(1)).tolist()
    return means


def main(argv: Sequence[str] | None = None) -> None:
    """Score and write."""
    parser = argparse.ArgumentParser(description="Score adapters on tasks' own examples.")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--base", default="", help="directory or name; default: the checkpoint's")
    parser.add_argument("--tokens", type=int, default=0, help="in a batch; default by device")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    began = time.monotonic()
    pack = Pack.load(args.pack)
    spec = checkpoint.from_pretrained(pack.facts["checkpoint"]).config.lora
    generator = AdapterGenerator.load(pack.facts["checkpoint"], base=spec, device=args.device)
    directory = find_model(args.base or spec.base_model)
    # Differences of losses are small: no rounding that the adapters don't have themselves.
    model = load_frozen(directory, device=args.device, dtype=torch.float32)
    is_cuda = args.device.startswith("cuda")
    losses = score(pack, model, generator, tokens=args.tokens or (1 << 16 if is_cuda else 1 << 12))
    document = {
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
        "losses": [[*key, [round(loss, 5) for loss in row]] for key, row in losses.items()],
    }
    args.out.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
