"""
Batches for a hypernetwork that reads tokens: beside a task's row, a description and examples of it.

Examples are drawn anew for each row. In some rows the labels are renamed or the answers take
another form, in the examples that are shown as in those that are trained on, so that they must be
read instead of known.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from t2l_router.context import CONTEXT_MOST, Seam, Segment, described, lay_out, shown
from training import forms
from training.data import FULL, NONE, PLAIN, Batch, Pack, Sampler, groups_of
from training.forms import Form
from training.renaming import Ids, Renamer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COUNTS, _SHARES = (1, 2, 3, 4, 6), (0.1, 0.15, 0.45, 0.15, 0.15)
_SHORTEST = 0.5  # share of the draws that are the shortest of ten, as few-shot prompts take them
_TOLD, _NAMED = 0.5, 0.15  # shares of the descriptions that say what is new, and the old labels
_COVERING = 0.4  # share of the draws of examples that have every label, as far as they go
_BEFORE_LABELS = 190  # tokens of a description that says labels, too


@dataclass(frozen=True)
class ContextBatch(Batch):
    """
    A batch with what is to be read of each row's task.

    Args:
        context_ids: ``[T, C]`` int64.
        context_positions: ``[T, C]`` int64, starting over with each segment.
        context_kinds: ``[T, C]`` int64, what each token is.
    """

    context_ids: torch.Tensor
    context_positions: torch.Tensor
    context_kinds: torch.Tensor


@dataclass(frozen=True)
class _Wording:
    """
    What a row's answers are instead of the task's own.

    Args:
        names: Other labels; empty where there are none.
        form: Another form.
    """

    names: dict[Ids, Ids]
    form: Form | None

    def __bool__(self) -> bool:
        return bool(self.names) or self.form is not None


@dataclass(frozen=True)
class Shares:
    """
    How a hypernetwork that reads tokens is shown its tasks.

    Args:
        renamed: Share of the rows of tasks with labels whose labels are others.
        formed: Share of the rows whose answers take another form.
        definition: Share of the rows whose description is the definition.
        shown: Share of the rows that show examples.
        described: Share of the rows that have a description; those without examples have one.
        words: Share of the descriptions that are read as tokens, beside their embedding.
        hidden: Share of the tokens that a row doesn't see.
        context: Tokens of a row.
    """

    renamed: float = 0.35
    formed: float = 0.25
    definition: float = 0.2
    shown: float = 0.75
    described: float = 0.75
    words: float = 0.7
    hidden: float = 0.1
    context: int = CONTEXT_MOST


class ContextSampler(Sampler):
    """
    Draws `ContextBatch`es.

    Args:
        pack: What to draw from.
        tokenizer: The base model's.
        shares: How rows are varied.
        options: As of `Sampler`.
    """

    def __init__(
        self, pack: Pack, tokenizer: "PreTrainedTokenizerBase", *, shares: Shares, **options: Any
    ) -> None:
        super().__init__(pack, **options)
        self._shares, self._tokenizer = shares, tokenizer
        self._seam, self._eos = Seam.of(tokenizer), tokenizer.eos_token_id
        texts = pack.facts["descriptions"]
        self._texts: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        self._definitions = groups_of(pack.embedding_tasks, pack.terse, FULL)
        self._renamer = Renamer(tokenizer, texts)
        self._labels = {
            task: self._renamer.labels([self._parts(i)[1] for i in self._examples[PLAIN][task]])
            for task in self._task_ids
        }

    def batch(self, step: int) -> ContextBatch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        n_tasks, row_tokens = self._shape
        tasks = rng.choice(self._task_ids, n_tasks, replace=n_tasks > len(self._task_ids))
        input_ids = np.zeros(self._shape, np.int64)
        position_ids = np.broadcast_to(np.arange(row_tokens), self._shape).copy()
        embeddings = np.zeros((n_tasks, self._pack.embeddings.shape[1]), np.float32)
        labels, chosen, groups, real = [], [], [], 0
        for row, task in enumerate(map(int, tasks)):
            wording = self._wording(task, rng)
            shots = self._shots(task, rng) if rng.random() < self._shares.shown else []
            at = 0
            targets = self._targets(task, rng, wording, shots)
            for prompt, answer in targets:
                end = at + len(prompt) + len(answer)
                input_ids[row, at:end] = [*prompt, *answer]
                position_ids[row, at:end] = np.arange(end - at)
                where = np.arange(end - len(answer), end)
                weight = 1 / (n_tasks * len(targets) * len(answer))
                labels.append((row * row_tokens + where - 1, input_ids[row, where], weight))
                at = end
            position_ids[row, at:] = np.arange(row_tokens - at)
            real += at
            description = self._chosen(task, rng)
            chosen.append(description)
            group = []
            if not shots or rng.random() < self._described():
                embeddings[row] = self._pack.embeddings[description]
                group += self._told(task, description, rng, wording, alone=not shots)
            if shots:
                parts = [self._parts(shot) for shot in shots]
                turns = [(prompt, self._say(said, wording)) for prompt, said in parts]
                group.append(shown(turns, self._seam))
            groups.append(group)
        weights = [np.full(len(at), weight, np.float32) for at, _, weight in labels]
        return ContextBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            torch.from_numpy(np.concatenate([at for at, _, _ in labels])),
            torch.from_numpy(np.concatenate([ids for _, ids, _ in labels])),
            torch.from_numpy(np.concatenate(weights)),
            torch.from_numpy(embeddings),
            tuple(chosen),
            real,
            *lay_out(groups, self._shares.context),
        )

    def _described(self) -> float:
        """Of the rows with examples, the share that has a description, too."""
        return max(0.0, 1 - (1 - self._shares.described) / self._shares.shown)

    def _parts(self, example: int) -> tuple[list[int], Ids]:
        """Give an example's prompt, and its answer without end of turn."""
        start, end = self._pack.starts[example : example + 2]
        split = end - self._pack.answers[example]
        tokens = self._pack.tokens
        return tokens[start:split].tolist(), tuple(tokens[split : end - 1].tolist())

    def _wording(self, task: int, rng: np.random.Generator) -> _Wording:
        labels = self._labels[task]
        is_renamed = bool(labels) and rng.random() < self._shares.renamed
        names = self._renamer.rename(labels, rng) if is_renamed else {}
        is_formed = rng.random() < self._shares.formed
        return _Wording(names, forms.draw(rng, self._renamer.words) if is_formed else None)

    def _say(self, said: Ids, wording: _Wording) -> list[int]:
        """Give an answer as the row has it."""
        answer = list(wording.names.get(said, said))
        if wording.form is None:
            return answer
        text = wording.form.apply(str(self._tokenizer.decode(answer)))
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _shots(self, task: int, rng: np.random.Generator) -> list[int]:
        count = int(rng.choice(_COUNTS, p=_SHARES))
        if self._labels[task] and rng.random() < _COVERING:
            return self._one_of_each(task, rng)[:count]
        pool = self._examples[PLAIN][task]
        some: list[int] = rng.choice(pool, min(10, len(pool)), replace=False).tolist()
        if rng.random() < _SHORTEST:
            some.sort(key=lambda i: int(self._pack.starts[i + 1] - self._pack.starts[i]))
        return some[:count]

    def _one_of_each(self, task: int, rng: np.random.Generator) -> list[int]:
        """Draw examples of different labels, then again."""
        by_label: dict[Ids, list[int]] = {}
        for example in rng.permutation(self._examples[PLAIN][task]).tolist():
            by_label.setdefault(self._parts(example)[1], []).append(example)
        turns = itertools.zip_longest(*(examples[:3] for examples in by_label.values()))
        return [example for turn in turns for example in turn if example is not None]

    def _targets(
        self, task: int, rng: np.random.Generator, wording: _Wording, shots: list[int]
    ) -> list[tuple[list[int], list[int]]]:
        """Give prompts and answers that fit into a row; instructions ask for the old ones."""
        chosen = self._fill(task, rng, 1.0 if wording else self._plain)
        chosen = [i for i in chosen if i not in shots] or chosen
        room, targets = self._shape[1], []
        for prompt, said in map(self._parts, chosen):
            answer = [*self._say(said, wording), self._eos]
            if len(prompt) + len(answer) <= room:
                targets.append((prompt, answer))
                room -= len(prompt) + len(answer)
        return targets

    def _chosen(self, task: int, rng: np.random.Generator) -> int:
        full = self._definitions.get(task, NONE)
        if len(full) and rng.random() < self._shares.definition:
            return int(rng.choice(full))
        return self._description(task, rng)

    def _told(
        self,
        task: int,
        description: int,
        rng: np.random.Generator,
        wording: _Wording,
        *,
        alone: bool,
    ) -> list[Segment]:
        """Give a description's tokens, in some rows with labels and form; new ones must be told."""
        must_tell = bool(wording) and alone
        if not must_tell and rng.random() >= self._shares.words:
            return []
        ids, labels = self._texts[description], self._labels[task]
        if must_tell or rng.random() < (_TOLD if wording else _NAMED):
            ids = ids[:_BEFORE_LABELS]
            if labels and (wording.names or not wording.form):
                ids = ids + self._renamer.tell(labels, wording.names, rng)
            if wording.form:
                told = str(rng.choice(wording.form.told))
                ids = ids + self._tokenizer(told, add_special_tokens=False)["input_ids"]
        return [described(self._tokenizer, ids)]
