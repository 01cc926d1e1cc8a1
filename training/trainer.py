"""
Supervised fine-tuning: the base model's loss on each task's examples trains the hypernetwork.

Source: Text-to-LoRA, section 3.2. Ours packs a task's examples into one row (one adapter a row,
attention stops at example borders), hides the instruction from half of the prompts, and computes
logits at answer positions only.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from threading import Thread

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router.errors import ConfigError
from training.base import AdaptedBase
from training.data import Batch, Pack, Sampler
from training.distillation import in_context_divergence
from training.recipe import Recipe


class Trainer:
    """
    Trains a source of LoRA pairs through a frozen base model.

    Args:
        base: The adapted base model.
        source: Maps embeddings ``[T, D]`` to LoRA pairs: a `Hypernet` or a baseline.
        pack: Training data.
        recipe: How.
        validation: Data of tasks that aren't trained on, whose loss is reported.
    """

    def __init__(
        self,
        base: AdaptedBase,
        source: nn.Module,
        pack: Pack,
        recipe: Recipe,
        *,
        validation: Pack | None = None,
    ) -> None:
        self.base, self.source, self.pack, self.recipe = base, source, pack, recipe
        self.device = next(source.parameters()).device
        self.step = 0
        self.tokens = 0
        self.history: list[dict[str, float]] = []
        self._params = {n: p for n, p in source.named_parameters() if p.requires_grad}
        self._averaged = {name: p.detach().clone() for name, p in self._params.items()}
        self._optimiser = self._new_optimiser(recipe)
        self._sampler = self._new_sampler()
        self._validation = None
        if validation is not None:
            self._validation = _sampler(validation, recipe, plain=1.0, terse=0.5, mix=0.0)

    def run(
        self, *, until: int | None = None, on_step: Callable[["Trainer", float], None] | None = None
    ) -> None:
        """
        Train up to a step (default: all of them).

        Args:
            until: The step to stop before.
            on_step: Called after each step with the step's loss (a 0-d tensor's value costs a
                synchronisation, so it is passed every 50 steps only).
        """
        last = min(until or self.recipe.steps, self.recipe.steps)
        for batch in self._batches(range(self.step, last)):
            loss = self._train(batch)
            self.step += 1
            self.tokens += batch.real_tokens
            if self.step % 50 == 0 or self.step == last:
                value = loss.item()
                self.history.append({"step": self.step, "loss": value, "tokens": self.tokens})
                if on_step is not None:
                    on_step(self, value)

    def _train(self, batch: Batch) -> Tensor:
        recipe = self.recipe
        # Seeding by step makes dropout and noise the same after a resume.
        torch.manual_seed(recipe.seed * 1_000_003 + self.step)
        self.source.train()
        self.base.train()
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.rate(self.step)
        batch = batch.to(self.device)
        embeddings = self._noised(self._embed(batch))
        loss = self._loss(batch, embeddings)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._update(batch)
        decay = min(recipe.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(
            list(self._averaged.values()),
            [p.detach() for p in self._params.values()],
            1 - decay,
        )
        return loss.detach()

    def _noised(self, embeddings: Tensor) -> Tensor:
        noise = self.recipe.noise * torch.randn_like(embeddings)
        return F.normalize(embeddings + noise, dim=-1)

    def _batches(self, steps: range) -> Iterable[Batch]:
        return _prefetch(self._sampler, steps)

    def _new_sampler(self) -> Sampler:
        return _sampler(self.pack, self.recipe)

    def _embed(self, batch: Batch) -> Tensor:
        return batch.embeddings

    def embeddings(self) -> Tensor:
        """Every training description's embedding, ``[M, D]``."""
        return torch.from_numpy(self.pack.embeddings).to(self.device)

    def _new_optimiser(self, recipe: Recipe) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            list(self._params.values()),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=self.device.type == "cuda",
        )

    def _update(self, batch: Batch) -> None:  # noqa: ARG002 - oracles need to know whose it is
        nn.utils.clip_grad_norm_(list(self._params.values()), self.recipe.clip)
        self._optimiser.step()

    def _loss(self, batch: Batch, embeddings: Tensor) -> Tensor:
        pairs = self.source(embeddings)
        inputs = (batch.input_ids, batch.position_ids, batch.label_at)
        if self.recipe.distil and self.source.training:
            logits = self.base(pairs, *inputs)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            divergences = in_context_divergence(self.base, pairs, batch, logits)
            losses = torch.lerp(losses, divergences, self.recipe.distil)
        else:
            losses = self.base.losses(pairs, *inputs, batch.labels)
        return (losses * batch.weights).sum()

    @torch.no_grad()
    def validate(self, *, batches: int = 4) -> float | None:
        """Give the averaged weights' loss on the validation tasks; None without such tasks."""
        if self._validation is None:
            return None
        total = 0.0
        with self.averaged():
            self.base.eval()
            for i in range(batches):
                batch = self._validation.batch(i).to(self.device)
                total += self._loss(batch, batch.embeddings).item()
        self.history.append({"step": self.step, "validation_loss": total / batches})
        return total / batches

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Inside, the source holds the averaged weights, in evaluation mode."""
        current = {name: p.detach().clone() for name, p in self._params.items()}
        self._assign(self._averaged)
        try:
            yield self.source.eval()
        finally:
            self._assign(current)

    def save_state(self, path: Path) -> None:
        """Write all that `load_state` needs to go on as if nothing had happened."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._params.items():
            tensors[f"param/{name}"] = parameter.detach()
            tensors[f"averaged/{name}"] = self._averaged[name]
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"adam/{key}/{name}"] = value
        loop = {
            "step": self.step,
            "tokens": self.tokens,
            "history": self.history,
            "recipe": asdict(self.recipe),
        }
        beside = path.with_suffix(".part")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, beside, metadata={"loop": json.dumps(loop)})
        beside.replace(path)

    @torch.no_grad()
    def load_state(self, path: Path) -> None:
        """
        Go on from a saved state.

        Raises:
            ConfigError: The state belongs to another recipe.
        """
        with safe_open(path, "pt", device=str(self.device)) as file:
            loop = json.loads(file.metadata()["loop"])
            wanted, made = asdict(self.recipe), loop["recipe"]
            if made != wanted:
                differing = ", ".join(
                    f"{name} {made.get(name)}, not {wanted.get(name)}"
                    for name in sorted(made | wanted)
                    if made.get(name) != wanted.get(name)
                )
                raise ConfigError(
                    f"{path} was made with another recipe ({differing}); "
                    "go on with that one, or give another folder for this run"
                )
            for name, parameter in self._params.items():
                parameter.copy_(file.get_tensor(f"param/{name}"))
                self._averaged[name].copy_(file.get_tensor(f"averaged/{name}"))
                state = {
                    key: file.get_tensor(f"adam/{key}/{name}")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
                if self.device.type == "cpu":
                    state["step"] = state["step"].cpu()
                self._optimiser.state[parameter] = state
        self.step, self.tokens = loop["step"], loop["tokens"]
        self.history = loop["history"]

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._params.items():
            parameter.copy_(values[name])


def _sampler(pack: Pack, recipe: Recipe, **changes: float) -> Sampler:
    return Sampler(
        pack,
        tasks_per_step=recipe.tasks_per_step,
        row_tokens=recipe.row_tokens,
        seed=recipe.seed,
        **{"plain": recipe.plain, "terse": recipe.terse, "mix": recipe.mix, **changes},
    )


def _prefetch(sampler: Sampler, steps: Iterable[int], *, ahead: int = 8) -> Iterator[Batch]:
    """Draw batches on another thread, so that the device never waits for them."""
    queue: Queue[Batch | BaseException | None] = Queue(maxsize=ahead)

    def draw() -> None:
        try:
            for step in steps:
                queue.put(sampler.batch(step))
            queue.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            queue.put(error)

    Thread(target=draw, daemon=True).start()
    while (item := queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
