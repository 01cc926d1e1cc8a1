"""What a training run leaves behind: the averaged weights in the system's own form, and figures."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l_router import checkpoint
from t2l_router.context import Reading
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.hypernet import Hypernet
from training.baselines import SharedAdapter
from training.data import Pack
from training.delta_w import squares
from training.oracles import TaskAdapters
from training.trainer import Trainer
from training.tuning import TunedHypernet


def save(trainer: Trainer, out: Path, described: Pack, *, command: str, seconds: float) -> None:
    """
    Write the averaged weights and ``metrics.json``; before the last step beside later ones.

    Args:
        trainer: At the step to save.
        out: An existing folder.
        described: The pack with the tasks' descriptions, whatever the trainer reads.
        command: That made the run.
        seconds: That it took.
    """
    is_cuda = trainer.device.type == "cuda"
    run = {
        "command": command,
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "tokens_per_s": round(trainer.tokens / seconds),
        # Forward and backward through frozen weights: 2 + 2 operations a parameter and token;
        # attention, the output layer and the adapters come on top and aren't counted.
        "flop_per_token": 4 * sum(p.numel() for p in trainer.base.layer_parameters()),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if is_cuda else None,
        "tasks": len(trainer.pack.facts["tasks"]),
        "parameters": sum(p.numel() for p in trainer.source.parameters()),
    }
    suffix = "" if trainer.step == trainer.recipe.steps else f"-{trainer.step}"
    with trainer.averaged() as source:
        if isinstance(source, SharedAdapter):
            shutil.rmtree(out / f"adapter{suffix}", ignore_errors=True)
            source.weights().save_peft(out / f"adapter{suffix}")
        elif isinstance(source, TaskAdapters):
            source.oracles(described).save(out / f"oracles{suffix}.safetensors")
        else:
            tuned = source.save_encoder(out) if isinstance(source, TunedHypernet) else None
            hypernet = source.hypernet if isinstance(source, TunedHypernet) else source
            assert isinstance(hypernet, Hypernet | ContextHypernet)
            # Twice the largest seen: room for new descriptions, none for a broken forward.
            limit = 2 * _largest_norm(hypernet, trainer.embeddings())
            hypernet.config = dataclasses.replace(hypernet.config, max_delta_norm=limit)
            checkpoint.save_pretrained(
                hypernet,
                out / f"checkpoint{suffix}",
                card=_card(trainer, run),
                encoder_lora=tuned,
            )
    metrics = {
        "run": run,
        "setup": dataclasses.asdict(trainer.recipe),
        "metrics": {"history": trainer.history},
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(run))


@torch.no_grad()
def _largest_norm(hypernet: Hypernet | ContextHypernet, embeddings: Tensor | Reading) -> float:
    """The largest delta-W norm of a layer over some descriptions."""
    largest = 0.0
    for rows in _parts(embeddings):
        for pair in hypernet(rows).values():
            norm = squares(pair).max().sqrt().item()
            largest = max(largest, hypernet.config.lora.scaling * norm)
    return largest


def _parts(inputs: Tensor | Reading) -> Iterator[Any]:
    if isinstance(inputs, Tensor):
        yield from inputs.split(256)
        return
    for start in range(0, len(inputs), 64):
        yield inputs[list(range(start, min(start + 64, len(inputs))))]


def _card(trainer: Trainer, run: dict[str, object]) -> str:
    """A model card with the facts of the run; results are added by hand from evaluations."""
    facts = trainer.pack.facts
    lines = [
        f"# Text-to-LoRA hypernetwork for {facts['base_model']}",
        "",
        f"Encoder: {facts['encoder']}. Training tasks: {len(facts['tasks'])}.",
        "",
        "```",
        json.dumps({"run": run, "recipe": dataclasses.asdict(trainer.recipe)}, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
