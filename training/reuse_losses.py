"""Whether a delta-W distance tells what reuse costs: the base model's loss with either adapter."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2l_router.chat_format import render
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec, LoraWeights
from training.corpus import Example, Task
from training.prompts import chat

PARAPHRASE, OTHER_TASK = "paraphrase", "other task"
LEAST_PAIRS = 20
_MOST_TOKENS = 160  # a CPU does this
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Two adapters on one task's own examples.

    Args:
        distance: Delta-W distance of the two.
        excess: Mean loss of the held adapter less that of the new one, in nats a token of the
            answer; above zero the new one is better.
        base_excess: The same for the base model alone: what the new adapter is good for.
        kind: What the held adapter was made for: ``paraphrase`` or ``other task``.
    """

    distance: float
    excess: float
    base_excess: float
    kind: str


class LossMeter:
    """
    Scores adapters by the loss of right answers.

    Args:
        model: The base model; its target modules are replaced.
        tokenizer: The base model's.
        spec: The adapters' shapes.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: LoraSpec
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._bank = SlotBank(model, spec, 1)

    def loss(self, weights: LoraWeights | None, examples: Sequence[Example]) -> float:
        """
        Give the mean negative log-likelihood of the answers, nats a token.

        Args:
            weights: The adapter; None for the base model.
            examples: Their first output is the answer.
        """
        self._bank.clear(1) if weights is None else self._bank.insert(1, weights)
        total, count = 0.0, 0
        for start in range(0, len(examples), _BATCH):
            batch = [self._tokenise(example) for example in examples[start : start + _BATCH]]
            total += self._batch_loss(batch)
            count += sum(len(answer) for _, answer in batch)
        return total / count

    def sample(self, task: Task, n: int, *, seed: int = 0) -> list[Example]:
        """Draw at most *n* test examples that are short enough."""
        pool = list(task.examples("test"))
        random.Random(f"{seed}/{task.name}").shuffle(pool)  # noqa: S311 - sampling, not secrets
        chosen: list[Example] = []
        for example in pool:
            if len(chosen) == n:
                break
            prompt, answer = self._tokenise(example)
            if len(prompt) + len(answer) <= _MOST_TOKENS:
                chosen.append(example)
        return chosen

    def _tokenise(self, example: Example) -> tuple[list[int], list[int]]:
        prompt = render(self._tokenizer, chat(example.text))
        answer = self._tokenizer(example.outputs[0], add_special_tokens=False)["input_ids"]
        return prompt, [*answer, self._tokenizer.eos_token_id]

    @torch.inference_mode()
    def _batch_loss(self, batch: Sequence[tuple[list[int], list[int]]]) -> float:
        longest = max(len(prompt) + len(answer) for prompt, answer in batch)
        pad = self._tokenizer.pad_token_id
        ids = torch.full((len(batch), longest), pad)
        answers = torch.zeros((len(batch), longest), dtype=torch.bool)
        for i, (prompt, answer) in enumerate(batch):
            end = len(prompt) + len(answer)
            ids[i, :end] = torch.tensor(prompt + answer)
            answers[i, len(prompt) : end] = True
        with self._bank.rows([1] * len(batch)):
            # Padding stands behind: causal attention hides it from everything that counts.
            hidden = self._model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        predicting = answers[:, 1:]
        logits = self._model.get_output_embeddings()(hidden[:, :-1][predicting])
        return F.cross_entropy(logits.float(), ids[:, 1:][predicting], reduction="sum").item()


@dataclass(frozen=True, slots=True)
class Rivals:
    """
    The adapters to compare for one query.

    Args:
        task: Whose examples count.
        fresh: Made from the query.
        held: Kind -> the adapter that might serve instead.
    """

    task: Task
    fresh: LoraWeights
    held: dict[str, LoraWeights]


def compare(meter: LossMeter, rivals: Iterable[Rivals], *, examples: int) -> list[Comparison]:
    """Measure what each held adapter costs against the fresh one."""
    done = []
    for rival in track(rivals, "Measuring losses", console=Console(stderr=True)):
        sample = meter.sample(rival.task, examples)
        if not sample:
            continue
        fresh = meter.loss(rival.fresh, sample)
        base_excess = meter.loss(None, sample) - fresh
        for kind, weights in rival.held.items():
            excess = meter.loss(weights, sample) - fresh
            done.append(Comparison(rival.fresh.delta_distance(weights), excess, base_excess, kind))
    return done


def noise(comparisons: Sequence[Comparison]) -> float:
    """Give the excess loss that 95 % of the adapters made from a paraphrase don't reach."""
    return float(np.quantile([c.excess for c in comparisons if c.kind == PARAPHRASE], 0.95))


def farthest_harmless(comparisons: Sequence[Comparison]) -> float:
    """
    Find the delta-W distance up to which another task's adapter will do.

    Semantics:
        The largest d, in steps of 0.05, such that the losses of the other tasks' adapters within d
        differ from the new adapters' by no more, on average, than the losses of two adapters
        made from paraphrases differ.

    Returns:
        0 if there is no such distance with at least `LEAST_PAIRS` pairs within it.
    """
    allowed = mean_difference(comparisons, PARAPHRASE)
    for step in range(40, 0, -1):
        within = [c for c in comparisons if c.distance <= step / 20]
        if sum(c.kind == OTHER_TASK for c in within) < LEAST_PAIRS:
            break
        if mean_difference(within, OTHER_TASK) <= allowed:
            return step / 20
    return 0.0


def mean_difference(comparisons: Sequence[Comparison], kind: str) -> float:
    """Give the mean absolute difference of two adapters' losses, nats a token."""
    return float(np.mean([abs(c.excess) for c in comparisons if c.kind == kind]))
