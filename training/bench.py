"""Answers the test examples of many tasks with one system after another."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from t2l_router.chat_format import render
from t2l_router.context import ContextReader, Reading
from t2l_router.engines.native.build import library
from t2l_router.engines.quantise import quantise
from t2l_router.engines.slots import SlotBank
from t2l_router.errors import ConfigError, GenerationFailed
from t2l_router.generator import AdapterGenerator
from t2l_router.lora import LoraWeights
from training.answering import Prompt, answer
from training.base import find_model, load_frozen
from training.conditions import Inputs, conditions
from training.corpus import Example, Task
from training.mixtures import arrow, average
from training.prompts import chat
from training.sampling import choose_shots
from training.scoring import Scores, mean_scores, score_task
from training.systems import System, described, instruction

# Benchmarks hold inputs of thousands of tokens; their end holds the question.
_PROMPT_MOST = 1536
_SLOTS = 128  # adapters resident at once; more are answered in turns


_T = TypeVar("_T")
Make = Callable[[Sequence[int]], list[LoraWeights | None]]


@dataclass
class _Plan:
    """Which adapter answers which example, and how adapters are made, some at a time."""

    adapters: Sequence[Sequence[int | None]]  # per task and example; None is the base model
    make: Make = lambda _: []


@dataclass
class Bench:
    """
    A base model opened for adapters.

    Args:
        inputs: What is evaluated.
        generator: Writes the adapters.
        max_new_tokens: Longest answer.
        batch: Prompts answered together.
        only_first_line: Whether answers end at a line break. A pretrained model writes the next
            input behind its answer; told in the prompt or by an adapter, all are cut alike.
        refused: Adapters that the generator refused to write; the base model answered instead, as
            it does when serving.
    """

    inputs: Inputs
    generator: AdapterGenerator
    max_new_tokens: int
    batch: int
    only_first_line: bool = False
    refused: int = 0

    def load_base(self, base: str, *, device: str, dtype: str = "bfloat16") -> None:
        """Load the base model, as it is served with *dtype*, and open it for adapters."""
        directory = find_model(base)
        self._model = load_frozen(directory, device=device, dtype=torch.bfloat16)
        if dtype == "auto" and device == "cpu":
            from t2l_router import config  # noqa: PLC0415 - machines that train lack pydantic

            quantise(self._model, "bfloat16", library(config.load({}).cache_dir))
        elif dtype not in ("auto", "bfloat16"):
            quantise(self._model, dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._bank = SlotBank(self._model, self.generator.spec, _SLOTS)

    def score(self, system: System, *, seed: int, draws: int) -> dict[str, dict[str, object]]:
        """
        Answer every example with one system; task name -> means over draws.

        Args:
            system: Systems that depend on no description are drawn once.
            seed: Of the first draw of descriptions, in-context examples and random strings.
            draws: How many.
        """
        seeds = range(seed, seed + (draws if system.is_drawn else 1))
        return mean_scores([self._score(system, seed) for seed in seeds])

    def _score(self, system: System, seed: int) -> dict[str, Scores]:
        inputs = self._answerable(system)
        plan = self._plan(system, inputs, seed)
        prompts = [
            (self._render(task, shots, example, system, seed), adapter)
            for task, shots, examples, adapters in zip(
                inputs.tasks, inputs.shots, inputs.examples, plan.adapters, strict=True
            )
            for example, adapter in zip(examples, adapters, strict=True)
        ]
        with self._mixture(system):
            answers = iter(self._answer(prompts, plan.make, system.name))
        return {
            task.name: score_task(task, examples, [next(answers) for _ in examples])
            for task, examples in zip(inputs.tasks, inputs.examples, strict=True)
        }

    def _answerable(self, system: System) -> Inputs:
        """Leave out tasks that the system has nothing for."""
        inputs = self.inputs
        if system.adapter != "oracle":
            return inputs
        own = _needed(inputs.own, system, "--own-oracles")
        kept = [i for i, task in enumerate(inputs.tasks) if task.name in set(own.tasks)]
        if not kept:
            raise ConfigError(f"{system.name}: --own-oracles holds none of the evaluated tasks")
        return Inputs(
            [inputs.tasks[i] for i in kept],
            [inputs.examples[i] for i in kept],
            [inputs.shots[i] for i in kept],
            inputs.encoder,
            own=own,
        )

    def _plan(self, system: System, inputs: Inputs, seed: int) -> _Plan:
        by_task = [[i] * len(examples) for i, examples in enumerate(inputs.examples)]
        names = [task.name for task in inputs.tasks]
        make: Make
        match system.adapter:
            case "none" | "average" | "arrow":
                return _Plan([[None] * len(row) for row in by_task])
            case "shared":
                shared = _needed(inputs.shared, system, "--multi-task")
                by_task, make = [[0] * len(row) for row in by_task], lambda _: [shared]
            case "oracle":
                own = _needed(inputs.own, system, "--own-oracles")
                make = lambda rows: [own.weights(names[i]) for i in rows]  # noqa: E731
            case "nearest":
                library = _needed(inputs.library, system, "--oracles")
                embedded = inputs.encoder.embed(described(inputs.tasks, "description", seed))
                nearest = library.nearest(embedded)
                make = lambda rows: [library.weights(nearest[i]) for i in rows]  # noqa: E731
            case "input":
                texts = [example.text for examples in inputs.examples for example in examples]
                count = iter(range(len(texts)))
                by_task = [[next(count) for _ in row] for row in by_task]
                make = self._writer(inputs.encoder.embed(texts))
            case _:
                make = self._writer(conditions(system, inputs, seed, self._reader()))
        return _Plan(by_task, make)

    def _mixture(self, system: System) -> AbstractContextManager[None]:
        """Give the context in which all oracles of the library answer together, if they do."""
        if system.adapter not in ("average", "arrow"):
            return nullcontext()
        library = _needed(self.inputs.library, system, "--oracles")
        return (average if system.adapter == "average" else arrow)(self._model, library)

    def _reader(self) -> ContextReader | None:
        """Give what reads tokens for the hypernetwork, if it takes any."""
        reads = self.generator.reads
        return ContextReader(self._model, self._tokenizer, reads.depths) if reads else None

    def _writer(self, known: NDArray[np.float32] | Reading) -> Make:
        def write(rows: Sequence[int]) -> list[LoraWeights | None]:
            try:
                return list(self.generator.generate(known[list(rows)]))
            except GenerationFailed:
                if len(rows) > 1:
                    return [adapter for row in rows for adapter in write([row])]
                self.refused += 1
                return [None]

        return write

    def _answer(
        self, prompts: Sequence[tuple[list[int], int | None]], make: Make, label: str
    ) -> list[str]:
        """Answer prompts with their adapters, as many adapters at a time as there are slots."""
        answers = [""] * len(prompts)
        wanted = sorted({adapter for _, adapter in prompts if adapter is not None})
        turns = [wanted[i : i + _SLOTS] for i in range(0, len(wanted), _SLOTS)] or [[]]
        for number, turn in enumerate(turns):
            slots = dict(self._insert(turn, make))
            chosen = [
                i
                for i, (_, adapter) in enumerate(prompts)
                if adapter in slots or (adapter is None and number == 0)
            ]
            said = answer(
                self._model,
                self._bank,
                self._tokenizer,
                [Prompt(prompts[i][0], slots.get(prompts[i][1], 0)) for i in chosen],
                max_new_tokens=self.max_new_tokens,
                batch=self.batch,
                label=label,
            )
            for i, text in zip(chosen, said, strict=True):
                answers[i] = _first_line(text) if self.only_first_line else text
        return answers

    def _insert(self, adapters: Sequence[int], make: Make) -> Iterator[tuple[int | None, int]]:
        """Make adapters and put them into slots; give each one's slot."""
        for start in range(0, len(adapters), 32):
            rows = adapters[start : start + 32]
            for slot, (row, weights) in enumerate(zip(rows, make(rows), strict=True), start + 1):
                if weights is not None:
                    self._bank.insert(slot, weights)
                yield row, slot if weights is not None else 0

    def _render(
        self, task: Task, shots: list[Example], example: Example, system: System, seed: int
    ) -> list[int]:
        shown = choose_shots(task, shots, seed) if system.prompt == "examples" else []
        messages = chat(
            example.text,
            instruction=instruction(task, system.prompt, seed),
            shots=[(shot.text, shot.outputs[0]) for shot in shown],
        )
        most = _PROMPT_MOST * (1 + len(shown))
        ids = render(self._tokenizer, messages)[-most:]
        prefill = example.facts.get("prefill", "")
        begun: list[int] = self._tokenizer(prefill, add_special_tokens=False)["input_ids"]
        return ids + begun


def _first_line(text: str) -> str:
    """Cut an answer at its first line break; line breaks before it are no end."""
    return text.strip().partition("\n")[0].rstrip()


def _needed(value: _T | None, system: System, flag: str) -> _T:
    if value is None:
        raise ConfigError(f"{system.name} needs {flag}; see: python -m training.evaluate --help")
    return value
