"""
Task descriptions for training, written by a language model; `t2l describe` runs it.

Every answer goes to a journal beside ``tasks.jsonl`` before anything else happens, so a run that
was killed goes on where it was. No description is kept twice, not even for two tasks.
"""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from filelock import FileLock, Timeout

from t2l_router.errors import ConfigError, T2LError
from training.check import check
from training.corpus import examples_of
from training.describe_prompt import SHOWN, Messages, Shown, descriptions_in, key, messages

Field = Literal["descriptions", "terse_descriptions", "eval_descriptions"]
FIELDS: tuple[Field, ...] = ("descriptions", "terse_descriptions", "eval_descriptions")
Ask = Callable[[Messages, int], str]
"""Conversation and seed to answer."""

JOURNAL = "descriptions.journal.jsonl"
_DRY_CALLS = 3  # after so many calls without anything new a task is left as it is
_FAILED_CALLS = 3  # in a row


class DescribingFailed(T2LError):
    """Some tasks could not be described; the same run again tries only these."""


@dataclass(frozen=True)
class Plan:
    """
    What to write.

    Args:
        data: The folder of tasks.
        model: The model's name, for the journal.
        field: Which of a task's lists grows.
        per_task: How many descriptions a task is to have, its own included.
        per_call: How many to ask for at once.
        pairs: How many examples of a task each call shows.
        parallel: Calls at the same time, each for another task.
    """

    data: Path
    model: str
    field: Field = "descriptions"
    per_task: int = 128
    per_call: int = 20
    pairs: int = 5
    parallel: int = 4

    @property
    def style(self) -> str:
        """How the descriptions are written."""
        return "terse" if self.field == "terse_descriptions" else "full"


@dataclass(frozen=True)
class Report:
    """
    What a folder has after a run.

    Args:
        tasks: Number of tasks.
        added: Descriptions written by this run.
        calls: Answers of the model in this run.
        short: Tasks with fewer than planned, since the model said nothing new any more.
    """

    tasks: int
    added: int
    calls: int
    short: tuple[str, ...]


def describe(plan: Plan, ask: Ask, *, advance: Callable[[int], None] = lambda _: None) -> Report:
    """
    Have a model describe every task that has too few descriptions, and write them to tasks.jsonl.

    Args:
        plan: What to write.
        ask: The model; called from several threads.
        advance: Told how many descriptions came, at each answer.

    Raises:
        ConfigError: The folder is no folder of tasks, or another run is at it.
        DescribingFailed: Calls failed; what others brought is kept.
    """
    check(plan.data, described=False)
    journal = plan.data / JOURNAL
    with _alone(plan.data), journal.open("ab") as file:
        book = _Book(plan)
        file.truncate(book.n_journal_bytes)  # a kill may have cut its last line short
        book.keep_in(file)
        work = _Work(plan, book, ask, advance)
        try:
            with ThreadPoolExecutor(plan.parallel) as pool:
                try:
                    for done in [pool.submit(work.complete, name) for name in book.wanting()]:
                        done.result()
                finally:
                    work.stopped.set()  # Ctrl-C waits for the calls under way, not for the rest
        finally:
            _write_tasks(plan, book)
    if work.failures:
        raise DescribingFailed(work.told())
    return Report(len(book.tasks), book.added, book.calls, book.short())


def read_tasks(folder: Path) -> list[dict[str, Any]]:
    """The lines of tasks.jsonl as they are."""
    lines = (folder / "tasks.jsonl").read_text(encoding="utf8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def missing(plan: Plan) -> int:
    """How many descriptions the folder's tasks lack."""
    check(plan.data, described=False)
    return _Book(plan).missing()


def prompt(plan: Plan, task: dict[str, Any], seed: int) -> Messages:
    """
    What a call for a task asks.

    Args:
        plan: Says the style and how much is shown.
        task: Its line of tasks.jsonl.
        seed: Chooses the examples; the same seed asks the same.
    """
    examples = list(examples_of(plan.data / task["file"], "train"))
    drawn = random.Random(f"{seed}/{task['task']}")  # noqa: S311 - sampling, not secrets
    shown = drawn.sample(examples, min(plan.pairs, len(examples)))
    return messages(Shown(shown), SHOWN[plan.style], count=plan.per_call, style=plan.style)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / f"{JOURNAL}.lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"another run describes the tasks of {folder}; wait for it") from None


class _Book:
    """
    The descriptions so far; what is added is on the disk before it counts.

    Args:
        plan: Whose field grows.
    """

    def __init__(self, plan: Plan) -> None:
        tasks = read_tasks(plan.data)
        self.tasks = {task["task"]: task for task in tasks}
        self.added = self.calls = 0
        self._plan, self._lock = plan, threading.Lock()
        self._file: IO[bytes] | None = None
        self._n_calls: Counter[str] = Counter()
        self._dry: Counter[str] = Counter()
        self._new: dict[str, list[str]] = {name: [] for name in self.tasks}
        own = [text for task in tasks for field in FIELDS for text in task.get(field) or ()]
        self._taken = {key(text) for text in own}
        entries, self.n_journal_bytes = _journal(plan.data / JOURNAL)
        for entry in entries:
            if entry["field"] == plan.field and entry["task"] in self.tasks:
                self._count(entry)

    def keep_in(self, file: IO[bytes]) -> None:
        """Write what is added to this journal, open for appending."""
        self._file = file

    def add(self, name: str, texts: list[str]) -> int:
        """Keep what is new of one answer; how much that was."""
        assert self._file is not None, "add needs keep_in"
        with self._lock:
            fresh: dict[str, str] = {}
            for text in texts:
                if key(text) not in self._taken:
                    fresh.setdefault(key(text), text)
            kept = list(fresh.values())[: self.lacks(name)]
            entry = {
                "field": self._plan.field,
                "task": name,
                "model": self._plan.model,
                "descriptions": kept,
            }
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._count(entry)
            self.added += len(kept)
            self.calls += 1
            return len(kept)

    def _count(self, entry: dict[str, Any]) -> None:
        name, texts = entry["task"], entry["descriptions"]
        # An earlier run may have brought them into tasks.jsonl.
        new = [text for text in texts if key(text) not in self._taken]
        self._new[name] += new
        self._taken.update(map(key, new))
        self._n_calls[name] += 1
        if entry["model"] == self._plan.model:
            self._dry[name] = 0 if texts else self._dry[name] + 1

    def lacks(self, name: str) -> int:
        """How many descriptions a task is to get yet."""
        own = self.tasks[name].get(self._plan.field) or ()
        return max(0, self._plan.per_task - len(own) - len(self._new[name]))

    def missing(self) -> int:
        """How many all tasks are to get yet."""
        return sum(map(self.lacks, self.wanting()))

    def wanting(self) -> list[str]:
        """Tasks to ask for, in the file's order."""
        return [name for name in self.tasks if self.lacks(name) and not self.is_dry(name)]

    def is_dry(self, name: str) -> bool:
        """Whether the model has nothing new to say of a task."""
        return self._dry[name] >= _DRY_CALLS

    def short(self) -> tuple[str, ...]:
        """Tasks that have fewer than planned."""
        return tuple(name for name in self.tasks if self.lacks(name))

    def next_seed(self, name: str) -> int:
        """Another one for each call of a task; a run that goes on doesn't ask the same again."""
        return self._n_calls[name]

    def with_new(self, task: dict[str, Any]) -> dict[str, Any]:
        """A task's line with its new descriptions."""
        new, field = self._new.get(task["task"]), self._plan.field
        return task | {field: [*(task.get(field) or ()), *new]} if new else task


class _Work:
    """
    Asks for one task after another, in several threads.

    Args:
        plan: What to ask for.
        book: Where answers go.
        ask: The model.
        advance: Told what came.
    """

    def __init__(self, plan: Plan, book: _Book, ask: Ask, advance: Callable[[int], None]) -> None:
        self._plan, self._book, self._ask, self._advance = plan, book, ask, advance
        self._in_a_row = 0
        self.failures: dict[str, str] = {}
        self.stopped = threading.Event()

    def complete(self, name: str) -> None:
        """Ask until a task has enough, has run dry, or a call fails."""
        task = self._book.tasks[name]
        while self._book.lacks(name) and not self._book.is_dry(name) and not self.stopped.is_set():
            seed = self._book.next_seed(name)
            try:
                answer = self._ask(prompt(self._plan, task, seed), seed)
            except Exception as error:  # noqa: BLE001 - providers raise what they like; it is told
                self._failed(name, error)
                return
            self._in_a_row = 0
            self._advance(self._book.add(name, descriptions_in(answer)))

    def _failed(self, name: str, error: Exception) -> None:
        self.failures[name] = f"{type(error).__name__}: {error}"
        self._in_a_row += 1
        # A wrong key fails for every task: nobody wants to see that 600 times.
        if self._in_a_row >= _FAILED_CALLS:
            self.stopped.set()

    def told(self) -> str:
        """What failed, in words."""
        name, why = next(iter(self.failures.items()))
        n_kept = f"{self._book.added:,} descriptions were kept" if self._book.added else "none came"
        tasks = f"{len(self.failures):,} task" + "s" * (len(self.failures) != 1)
        return f"{tasks} failed, e.g. {name}: {why}; {n_kept}; the same command goes on"


def _journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """What the journal holds, and how many of its bytes are whole lines."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    entries = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entries.append(json.loads(line))
        except ValueError:
            raise ConfigError(f"{path}:{number} is damaged; remove that line") from None
    return entries, len(whole)


def _write_tasks(plan: Plan, book: _Book) -> None:
    """Replace tasks.jsonl; read again, since somebody may have edited it meanwhile."""
    path = plan.data / "tasks.jsonl"
    lines = [
        json.dumps(book.with_new(task), ensure_ascii=False) + "\n" for task in read_tasks(plan.data)
    ]
    beside = path.with_suffix(".jsonl.new")
    with beside.open("w", encoding="utf8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
