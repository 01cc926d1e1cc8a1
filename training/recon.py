"""
Train a hypernetwork to reproduce oracle LoRAs; no base model is needed.

    python -m training.recon --oracles runs/oracles/oracles.safetensors --embeddings descriptions \
        --variant L --steps 10000 --out runs/recon

Writes OUT/checkpoint, OUT/metrics.json (errors on seen and on held-out descriptions) and
OUT/state.safetensors; the same command again goes on where a killed run stopped.

Source: Text-to-LoRA, section 3.1: L1 between generated and oracle LoRAs, on z-scores of A and B or
on delta-W. Ours holds some descriptions out, so that the error on unseen ones is known.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from t2l_router import checkpoint
from t2l_router.errors import ConfigError, T2LError
from t2l_router.hypernet import Hypernet, HypernetConfig, LoraPair, Variant
from training.oracle_file import Oracles
from training.recipe import Recipe
from training.recon_data import Batch, Descriptions
from training.recon_loss import Targets
from training.trainer import Trainer

_LEAST_TASKS = 2  # one oracle has no spread to normalise by


class ReconTrainer(Trainer):
    """
    A `Trainer` whose loss is the distance to target LoRAs.

    Args:
        targets: Stand where the base model stands in fine-tuning: they turn pairs into a loss.
        source: A `Hypernet` with z-score output, on the targets' device.
        descriptions: What to draw from.
        recipe: How; what concerns examples is ignored.
    """

    def __init__(
        self, targets: Targets, source: Hypernet, descriptions: Descriptions, recipe: Recipe
    ) -> None:
        self._descriptions = descriptions
        super().__init__(targets, source, None, recipe)  # type: ignore[arg-type]

    def _new_sampler(self) -> "ReconTrainer":  # type: ignore[override]
        return self

    def batch(self, step: int) -> Batch:
        """Draw the batch of a step."""
        return self._descriptions.draw(step, self.recipe.tasks_per_step)

    def _loss(self, batch: Batch, embeddings: Tensor) -> Tensor:  # type: ignore[override]
        loss: Tensor = self.base(self.source(embeddings), batch.rows)
        return loss

    @torch.no_grad()
    def errors(self, batch: Batch) -> dict[str, float]:
        """Give the averaged weights' errors on some embeddings, as means over them."""
        assert isinstance(self.base, Targets)
        rows = []
        with self.averaged() as source:
            for embeddings, tasks in zip(
                batch.embeddings.split(32), batch.rows.split(32), strict=True
            ):
                pairs: Mapping[str, LoraPair] = source(embeddings.to(self.device))
                rows.append(self.base.errors(pairs, tasks.to(self.device)))
        return {name: float(torch.cat([row[name] for row in rows]).nanmean()) for name in rows[0]}


def new_hypernet(
    oracles: Oracles, targets: Targets, descriptions: Descriptions, variant: Variant
) -> Hypernet:
    """Give a hypernetwork whose output is normalised by the targets' mean and spread."""
    config = HypernetConfig(
        lora=oracles.spec,
        embedding_dim=descriptions.width,
        encoder=descriptions.encoder,
        encoder_fingerprint=descriptions.encoder_fingerprint,
        variant=variant,
        output="zscore",
        # Twice the largest target: room for new descriptions, none for a broken forward.
        max_delta_norm=2 * targets.largest_norm(),
    )
    hypernet = Hypernet(config)
    for sides, stats in (
        (hypernet.affine_A, targets.stats_a),
        (hypernet.affine_B, targets.stats_b),
    ):
        for name, affine in sides.items():
            mean, std = stats(name)
            affine.get_buffer("mean").copy_(mean)
            affine.get_buffer("std").copy_(std)
    return hypernet


def train(args: argparse.Namespace) -> dict[str, object]:
    """Train as the arguments say; see ``--help``."""
    oracles = Oracles.load(args.oracles)
    if len(oracles.tasks) < _LEAST_TASKS:
        raise ConfigError(f"{args.oracles} holds {len(oracles.tasks)} task; 2 at least are needed")
    recipe = Recipe(
        steps=args.steps,
        tasks_per_step=args.tasks_per_step,
        lr=args.lr,
        weight_decay=args.weight_decay,
        noise=args.noise,
        seed=args.seed,
    )
    torch.manual_seed(recipe.seed)
    if args.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    descriptions = Descriptions(
        oracles, one_hot=args.embeddings == "one-hot", held_out=args.held_out, seed=args.seed
    )
    targets = Targets(oracles, space=args.space).to(args.device)
    hypernet = new_hypernet(oracles, targets, descriptions, args.variant)
    trainer = ReconTrainer(targets, hypernet.to(args.device), descriptions, recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    state = args.out / "state.safetensors"
    if state.exists():
        trainer.load_state(state)
    began = time.monotonic()
    trainer.run(on_step=_Report(state))
    trainer.save_state(state)
    metrics: dict[str, object] = {"seen": trainer.errors(descriptions.first())}
    if descriptions.unseen is not None:
        metrics["unseen"] = trainer.errors(descriptions.unseen)
    results: dict[str, object] = {
        "run": {
            "command": "python -m training.recon " + " ".join(args.argv),
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
            "seconds": round(time.monotonic() - began, 1),
            "parameters": sum(p.numel() for p in hypernet.parameters()),
        },
        "setup": {
            "tasks": len(oracles.tasks),
            "embeddings": args.embeddings,
            "space": args.space,
            "variant": args.variant,
            **dataclasses.asdict(recipe),
        },
        "metrics": {**metrics, "history": trainer.history},
    }
    with trainer.averaged() as source:
        assert isinstance(source, Hypernet)
        title = f"# Reconstruction of {len(oracles.tasks)} oracle LoRAs"
        card = f"{title}\n\n```\n{json.dumps(metrics, indent=1)}\n```\n"
        checkpoint.save_pretrained(source, args.out / "checkpoint", card=card)
    (args.out / "metrics.json").write_text(json.dumps(results, indent=1) + "\n")
    return metrics


class _Report:
    """Says now and then how far training is, and saves its state."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._saved = time.monotonic()

    def __call__(self, trainer: Trainer, loss: float) -> None:
        if trainer.step % 500 == 0:
            print(f"step {trainer.step} loss {loss:.4f}", flush=True)
        if time.monotonic() - self._saved > 120:  # noqa: PLR2004 - seconds
            trainer.save_state(self._state)
            self._saved = time.monotonic()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.recon", description="Train a hypernetwork on oracle LoRAs."
    )
    parser.add_argument("--oracles", type=Path, required=True, help="file of oracle LoRAs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--embeddings", choices=["descriptions", "one-hot"], default="descriptions")
    parser.add_argument("--space", choices=["z-score", "delta-w"], default="z-score")
    parser.add_argument("--variant", choices=["L", "M", "S"], default="L")
    parser.add_argument("--held-out", type=int, default=3, help="descriptions a task")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--tasks-per-step", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    try:
        print(json.dumps(train(_parse(argv))))
    except T2LError as error:
        sys.exit(f"training.recon: {error}")


if __name__ == "__main__":
    main()
