"""From a folder of one's own tasks to a checkpoint: check, prepare, train; goes on where it was."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from t2l_router.errors import ConfigError
from training import prepare, sft
from training.check import Report, check
from training.data import Pack

_VALIDATION = "validation"


@dataclass(frozen=True)
class Plan:
    """
    What to train.

    Args:
        base: Base model, a name or a directory.
        data: The folder of tasks.
        out: Where everything is written.
        encoder: The task encoder's name.
        variant: L, M or S.
        steps: Optimiser steps.
        tasks_per_step: Rows a step, each of one task.
        row_tokens: Tokens a row.
        max_tokens: Longer examples are left out.
        lr: Peak learning rate.
        rank: LoRA rank.
        targets: Target modules, comma-separated.
        device: ``cuda`` or ``cpu``; empty takes what there is.
        compile: Compile the decoder layers.
        any_licence: Train on tasks whose licence forbids passing the weights on, too.
    """

    base: str
    data: Path
    out: Path
    encoder: str
    variant: str
    steps: int
    tasks_per_step: int
    row_tokens: int
    max_tokens: int
    lr: float
    rank: int
    targets: str
    device: str
    compile: bool
    any_licence: bool


def fit(plan: Plan) -> Path:
    """
    Train a hypernetwork; the same plan again goes on where a stopped run was.

    Returns:
        The checkpoint's directory.

    Raises:
        ConfigError: The data can't be used, or changed since *out* was begun.
    """
    report = check(plan.data)
    plan.out.mkdir(parents=True, exist_ok=True)
    splits = sorted(report.splits - {_VALIDATION, "benchmark"})
    splits = [name for name in splits if not name.startswith("heldout")]
    if not splits:
        raise ConfigError(f"{plan.data}: all tasks are kept for evaluation; none has split train")
    pack = _pack(plan, report, splits, "pack.safetensors")
    arguments = [
        "--pack", str(pack), "--base", plan.base, "--out", str(plan.out),
        "--variant", plan.variant, "--steps", str(plan.steps), "--lr", str(plan.lr),
        "--rank", str(plan.rank), "--targets", plan.targets, "--device", plan.device,
        "--tasks-per-step", str(plan.tasks_per_step), "--row-tokens", str(plan.row_tokens),
    ]  # fmt: skip
    if _VALIDATION in report.splits:
        validation = _pack(plan, report, [_VALIDATION], "validation.safetensors")
        arguments += ["--validation", str(validation)]
    sft.main(arguments + ["--compile"] * plan.compile)
    return plan.out / "checkpoint"


def _pack(plan: Plan, report: Report, splits: list[str], name: str) -> Path:
    """Prepare a pack, or take the one that is there if it was made from the same things."""
    path = plan.out / name
    made_from = _digest(plan, report, splits)
    stamp = path.with_suffix(".made-from")
    if path.exists() and stamp.exists():
        if stamp.read_text() == made_from:
            return path
        if (plan.out / "state.safetensors").exists():
            raise ConfigError(
                f"{plan.out} was begun with other data, base or encoder; choose another --out"
            )
    prepare.main(
        ["--corpus", str(plan.data), "--splits", ",".join(splits), "--base", plan.base,
         "--encoder", plan.encoder, "--max-tokens", str(plan.max_tokens), "--out", str(path)]
        + ["--any-licence"] * plan.any_licence
    )  # fmt: skip
    if not len(Pack.load(path).answers):
        raise ConfigError(f"{plan.data}: no example to train on")
    stamp.write_text(made_from)
    return path


def _digest(plan: Plan, report: Report, splits: list[str]) -> str:
    """Name what a pack is made from: the tasks' texts, how much data, and the settings."""
    digest = hashlib.sha256((plan.data / "tasks.jsonl").read_bytes())
    settings = (plan.base, plan.encoder, plan.max_tokens, plan.any_licence, splits)
    digest.update(repr((settings, report.examples)).encode())
    return digest.hexdigest()
