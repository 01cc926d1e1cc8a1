"""
Reads a folder of tasks: ``tasks.jsonl`` and one JSON-lines file of examples a task.

What a line must hold is checked by `training.check`, which names every line at fault.
"""

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from t2l_router.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Example:
    """
    One input with every output that counts as right.

    Args:
        text: The input.
        outputs: At least one; training uses the first.
        facts: What the task's own metric needs beside the outputs: choices, tests and the like.
    """

    text: str
    outputs: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """
    A text-in, text-out task.

    Args:
        name: Unique in the corpus.
        split: Which part of the corpus the task belongs to.
        family: What kind of task it is.
        licence_class: Decides whether weights trained on it may ship.
        definition: The full instructions, as an annotator would get them.
        descriptions: What a user might say of the task, in the paper's style; for evaluation, so
            those kept for it where the corpus keeps some.
        training_descriptions: The same for training; where some are kept for evaluation, others.
        terse_descriptions: The same as chat users type it.
        path: The file of examples.
        metric: The task's own metric, by the corpus' name for it.
    """

    name: str
    split: str
    family: str
    licence_class: str
    definition: str
    descriptions: tuple[str, ...]
    training_descriptions: tuple[str, ...]
    terse_descriptions: tuple[str, ...]
    path: Path
    metric: str = "exact_match"

    def examples(self, part: str) -> Iterator[Example]:
        """Yield the task's ``train`` or ``test`` examples in the file's order."""
        return examples_of(self.path, part)


def examples_of(path: Path, part: str) -> Iterator[Example]:
    """Yield the ``train`` or ``test`` examples of a file in its order."""
    with open_lines(path) as lines:
        for number, line in enumerate(filter(str.strip, lines)):
            raw = json.loads(line)
            # Of examples without a part of their own every fifth is for testing.
            if raw.get("split", "train" if (number + 1) % 5 else "test") == part:
                outputs = tuple(raw.get("outputs") or [raw["output"]])
                facts = {key: raw[key] for key in raw.keys() & _FACTS}
                yield Example(raw["input"], outputs, facts)


def open_lines(path: Path) -> TextIO:
    """Open a file of lines, gzipped or not."""
    return gzip.open(path, "rt", encoding="utf8") if path.suffix == ".gz" else path.open("rt")


# Fields of an example beside input and outputs: of options, arithmetic and code.
_FACTS = {"choices", "gold", "answer", "test", "entry_point", "test_list", "test_setup_code"}


def load_tasks(folder: Path, splits: Collection[str]) -> list[Task]:
    """
    Read the tasks of some splits, in the corpus' order.

    Raises:
        ConfigError: The folder isn't a corpus, or has no task of those splits.
    """
    try:
        lines = (folder / "tasks.jsonl").read_text(encoding="utf8").splitlines()
        tasks = [_task(json.loads(line), folder) for line in lines if line]
    except OSError as error:
        raise ConfigError(
            f"{folder} is not a corpus folder: {error.filename}: {error.strerror}"
        ) from None
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} is not a corpus folder: {error!r}; "
            f"t2l train --data {folder} -o OUT --check names every fault"
        ) from None
    chosen = [task for task in tasks if task.split in splits]
    if not chosen:
        known = ", ".join(sorted({task.split for task in tasks}))
        raise ConfigError(f"{folder}: no task of {', '.join(splits)}; its splits: {known}")
    return chosen


def _task(raw: dict[str, Any], folder: Path) -> Task:
    return Task(
        name=raw["task"],
        split=raw.get("split", "train"),
        family=raw.get("family", ""),
        licence_class=raw.get("licence_class", "own"),
        # Without a definition its place in prompts is taken by a description.
        definition=raw.get("definition") or raw["descriptions"][0],
        descriptions=tuple(raw.get("eval_descriptions") or raw["descriptions"]),
        training_descriptions=tuple(raw["descriptions"]),
        terse_descriptions=tuple(raw.get("terse_descriptions", ())),
        path=folder / raw["file"],
        metric=raw.get("metric", "exact_match"),
    )
