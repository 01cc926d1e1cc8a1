"""Chat turns to train inference on: written tasks and asides, a corpus' tasks, made-up chats."""

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.corpus import Task

TASKS = Path(__file__).with_name("chat_tasks.toml")
ASIDES = Path(__file__).with_name("chat_asides.toml")
_OPENERS = (
    *("",) * 6,
    "now ",
    "ok, ",
    "next thing: ",
    "Different question. ",
    "also, ",
    "by the way, ",
    "great, thanks. ",
    "please ",
    "can you ",
    "Could you help me? ",
    "One more thing, ",
    "Actually, ",
    "right, done. ",
)


@dataclass(frozen=True, slots=True)
class ChatTask:
    """
    What users type when they are at one task.

    Args:
        description: The task in words.
        asks: Turns that say what to do.
        requests: The same without material.
        inputs: Turns that are only something to do it with.
        follow_ups: Turns that change the last answer or go on with it.
        returns: Turns that come back to the task.
        systems: System prompts that state it.
    """

    description: str
    asks: tuple[str, ...]
    requests: tuple[str, ...]
    inputs: tuple[str, ...]
    follow_ups: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()

    def turns(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.asks, *self.requests, *self.inputs, *self.follow_ups, *self.returns)


@dataclass(frozen=True, slots=True)
class Asides:
    """
    What is no task, and what surrounds one.

    Args:
        asides: Small talk and questions about the assistant.
        helpers: Prompts of chat programs.
        personas: System prompts' sentences that state no task.
        system_tasks: Those that do.
    """

    asides: tuple[str, ...]
    helpers: tuple[str, ...]
    personas: tuple[str, ...]
    system_tasks: tuple[str, ...]


def load_written(seed: int = 0) -> tuple[list[ChatTask], Asides]:
    """Read the written tasks and asides and fill their templates."""
    raw = tomllib.loads(TASKS.read_text(encoding="utf8"))["task"]
    other = tomllib.loads(ASIDES.read_text(encoding="utf8"))
    rng = random.Random(seed)  # noqa: S311 - no secret
    tasks = [_written(entry, other, rng) for entry in raw]
    helpers = tuple(_fill(text, _chat(tasks, rng)) for text in other["helper"] for _ in range(2))
    asides = (*other["small_talk"], *other["about_assistant"])
    return tasks, Asides(asides, helpers, tuple(other["personas"]), tuple(other["system_tasks"]))


def _written(
    raw: Mapping[str, Any], other: Mapping[str, Sequence[str]], rng: random.Random
) -> ChatTask:
    inputs: list[str] = raw["inputs"]
    asks = []
    for ask in raw["asks"]:
        for text in rng.sample(inputs, min(3, len(inputs))) if "{}" in ask else [""]:
            material = rng.choice(["{}", '"{}"', "{}"]).replace("{}", text)
            gap = rng.choice([" ", " ", "\n", "\n\n"]) if ask.endswith("{}") else " "
            filled = ask.replace(" {}", gap + material).replace("{}", material)
            asks.append(rng.choice(_OPENERS) + filled)
    follow_ups = [f for f in raw["follow_ups"] if f != "{}"]
    return ChatTask(
        raw["description"],
        tuple(asks),
        tuple(ask.replace("{}", "").strip(" :.,") for ask in raw["asks"]),
        (
            *inputs,
            *(f'"{text}"' for text in inputs),
            *(_fill(rng.choice(other["going_on"]), _maybe_quoted(text, rng)) for text in inputs),
        ),
        tuple(
            rng.choice(["", "", "", "ok ", "and "]) + _fill(f, rng.choice(inputs))
            for f in follow_ups
        ),
        tuple(_fill(rng.choice(other["returning"]), _maybe_quoted(text, rng)) for text in inputs),
        (raw["system"],) if "system" in raw else (),
    )


def from_corpus(tasks: Sequence[Task], *, inputs: int, seed: int = 0) -> list[ChatTask]:
    """Make chat tasks of a corpus' tasks; those without terse descriptions are left out."""
    made = []
    for task in tasks:
        rng = random.Random(f"{seed} {task.name}")  # noqa: S311 - no secret
        texts = [example.text[:320] for example in task.examples("train")]
        rng.shuffle(texts)
        described = list(task.descriptions)
        rng.shuffle(described)
        if texts and task.terse_descriptions:
            chosen = tuple(texts[:inputs])
            made.append(
                ChatTask(described[0], task.terse_descriptions, tuple(described[:4]), chosen)
            )
    return made


def _fill(template: str, text: str) -> str:
    return template.replace("{}", text)


def _maybe_quoted(text: str, rng: random.Random) -> str:
    return rng.choice([text, f'"{text}"'])


def _chat(tasks: Sequence[ChatTask], rng: random.Random) -> str:
    user, answer = rng.choice(rng.choice(tasks).requests), rng.choice(rng.choice(tasks).inputs)
    return f"USER: {user}\nASSISTANT: {answer}"


@dataclass(frozen=True, slots=True)
class Said:
    """
    One turn of a made-up chat.

    Args:
        text: What the user types.
        task: The number of the task it is at; None for an aside.
        shifts: Whether the task is another one than before.
    """

    text: str
    task: int | None
    shifts: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A made-up chat; *system* states the first task, if it is given."""

    system: str | None
    first: int
    turns: tuple[Said, ...]


def made_up(
    tasks: Sequence[ChatTask], asides: Sequence[str], *, n: int, seed: int
) -> Iterator[Chat]:
    """
    Make chats up: tasks that go on for some turns, small talk between, shifts and returns.

    Args:
        tasks: At least four.
        asides: Turns of no task.
        n: How many chats.
        seed: Equal seeds give equal chats.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(n):
        yield _made_up(tasks, asides, rng)


def _made_up(tasks: Sequence[ChatTask], asides: Sequence[str], rng: random.Random) -> Chat:
    coming = rng.sample(range(len(tasks)), 4)
    first = current = coming.pop()
    past: list[int] = []
    task = tasks[current]
    system = rng.choice(task.systems) if task.systems and rng.random() < 0.75 else None
    turns = []
    if system is None:
        turns.append(Said(rng.choice(task.asks if rng.random() < 0.7 else task.inputs), current))
    for _ in range(rng.randint(3, 8)):
        luck = rng.random()
        if luck < 0.1:
            turns.append(Said(rng.choice(asides), None))
        elif luck < 0.32 and (past or coming):
            returns = bool(past) and (not coming or rng.random() < 0.3)
            following = rng.choice(past) if returns else coming.pop()
            past = [current, *(i for i in past if i != following)]
            current, task = following, tasks[following]
            asks = (*task.asks, *task.returns, *task.returns) if returns else task.asks
            bare = not returns and rng.random() < 0.08
            turns.append(Said(rng.choice(task.inputs if bare else asks), current, shifts=True))
        else:
            kinds = (task.inputs, task.follow_ups or task.inputs, task.asks)
            (kind,) = rng.choices(kinds, (0.5, 0.35, 0.15))
            turns.append(Said(rng.choice(kind), current))
    return Chat(system, first, tuple(turns))
