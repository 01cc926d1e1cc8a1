"""Training examples as token ids, one task after another or many tasks at once."""

import multiprocessing
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t2l_router.chat_format import render
from training.benchmarks import paper_form
from training.corpus import Example, Task
from training.data import INSTRUCTED, PLAIN
from training.prompts import Message, chat


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which of a task's training examples become tokens, and how they are asked.

    Args:
        examples: At most so many a task without instruction.
        instructed: At most so many with a description or the definition in the prompt.
        max_tokens: Longer examples are left out.
        templates: ``paper`` asks the ten benchmarks as the paper does, ``corpus`` as they are.
        seed: Decides which.
    """

    examples: int = 500
    instructed: int = 150
    max_tokens: int = 384
    templates: str = "corpus"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TaskTokens:
    """
    One task's examples.

    Args:
        tokens: All examples' token ids, one after another.
        lengths: ``[N]`` tokens of each example.
        answers: ``[N]`` tokens of each example's answer, end-of-turn included.
        kinds: ``[N]`` `PLAIN` or `INSTRUCTED`.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    answers: NDArray[np.int32]
    kinds: NDArray[np.int8]


def tokenise_all(
    tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, choice: Choice, *, workers: int = 1
) -> Iterator[TaskTokens]:
    """
    Tokenise every task, in order; the result doesn't depend on the number of workers.

    Args:
        tasks: Only their ``train`` examples are read.
        tokenizer: The base model's.
        choice: Which examples.
        workers: Processes; more than one need a tokenizer that was loaded from a directory.
    """
    if workers <= 1:
        yield from (tokenise(task, tokenizer, choice) for task in tasks)
        return
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:  # imports once for all workers
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(tokenizer.name_or_path, choice),
    ) as pool:
        yield from pool.map(_tokenise_in_worker, tasks)


def tokenise(task: Task, tokenizer: PreTrainedTokenizerBase, choice: Choice) -> TaskTokens:
    """Tokenise one task's examples; without those that fit without instruction it has none."""
    rng = random.Random(f"{choice.seed}/{task.name}")  # noqa: S311 - sampling, not secrets
    pool = list(task.examples("train"))
    if choice.templates == "paper":
        pool = [paper_form(task, example) for example in pool]
    rng.shuffle(pool)
    asked = [(chat(example.text), example, PLAIN) for example in pool[: choice.examples]]
    asked += [
        (_instruct(example, task, rng), example, INSTRUCTED)
        for example in pool[max(0, len(pool) - choice.instructed) :]
    ]
    rows = [
        (ids, len(target), kind)
        for messages, example, kind in asked
        for ids, target in [_ids(tokenizer, messages, example)]
        if len(ids) <= choice.max_tokens
    ]
    if all(kind == INSTRUCTED for _, _, kind in rows):
        rows = []
    return TaskTokens(
        np.concatenate([np.empty(0, np.int32), *(np.asarray(ids, np.int32) for ids, _, _ in rows)]),
        np.asarray([len(ids) for ids, _, _ in rows], np.int32),
        np.asarray([answer for _, answer, _ in rows], np.int32),
        np.asarray([kind for _, _, kind in rows], np.int8),
    )


def _ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], example: Example
) -> tuple[list[int], list[int]]:
    """The whole example, and its answer alone."""
    begun = _plain(tokenizer, example.facts.get("prefill", ""))
    target = [*_plain(tokenizer, example.outputs[0]), tokenizer.eos_token_id]
    return render(tokenizer, messages) + begun + target, target


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _instruct(example: Example, task: Task, rng: random.Random) -> list[Message]:
    """Say the task in the prompt: by a description, the definition, or a system prompt."""
    any_description = task.training_descriptions + task.terse_descriptions
    chance = rng.random()
    if chance < 0.4:  # noqa: PLR2004 - the mixture is the recipe
        return chat(example.text, instruction=rng.choice(any_description))
    if chance < 0.7:  # noqa: PLR2004
        return chat(example.text, instruction=task.definition)
    system = rng.choice((*any_description, task.definition))
    return chat(example.text, instruction=system, where="system")


_in_worker: tuple[PreTrainedTokenizerBase, Choice] | None = None


def _start_worker(directory: str, choice: Choice) -> None:
    global _in_worker  # noqa: PLW0603 - a process has no other place
    _in_worker = (AutoTokenizer.from_pretrained(directory, local_files_only=True), choice)


def _tokenise_in_worker(task: Task) -> TaskTokens:
    assert _in_worker is not None
    return tokenise(task, *_in_worker)


def join(parts: Iterable[TaskTokens]) -> dict[str, NDArray[Any]]:
    """Give the arrays of a `Pack` that hold examples; the parts' order numbers the tasks."""
    parts = list(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return {
        "tokens": np.concatenate([part.tokens for part in parts]),
        "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "answers": np.concatenate([part.answers for part in parts]),
        "tasks": np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.lengths) for p in parts]),
        "kinds": np.concatenate([part.kinds for part in parts]),
    }
