"""The numbers of a training run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    All numbers that shape a run, so that it can be repeated.

    Args:
        steps: Optimiser steps.
        tasks_per_step: Tasks a step, one packed row and one description each.
        row_tokens: Length of a row.
        lr: Peak learning rate of AdamW; linear warm-up, then linear decay to 0.
        warmup: Share of the steps spent warming up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are the result.
        noise: Standard deviation of noise on the unit-norm description embedding.
        dropout: LoRA dropout.
        plain: Share of examples without instruction (definition dropout).
        terse: Share of rows with a terse description.
        mix: Share of rows whose embedding lies between two descriptions of the task.
        distil: Weight of the base model's own answers with the row's earlier examples in its prompt
            as the target, beside the right answers.
        seed: Of everything drawn.
    """

    steps: int = 2000
    tasks_per_step: int = 64
    row_tokens: int = 512
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.998
    noise: float = 0.02
    dropout: float = 0.05
    plain: float = 0.5
    terse: float = 0.35
    mix: float = 0.0
    distil: float = 0.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Give the learning rate at a step: up to the peak, then down to 0."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * (self.steps - step) / max(1, self.steps - warmup)
