"""Chat turns to train inference on: written tasks and asides, a corpus' tasks, made-up chats."""

import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.corpus import Task

TASKS = Path(__file__).with_name("chat_tasks.toml")
ASIDES = Path(__file__).with_name("chat_asides.toml")
WHOLE = Path(__file__).with_name("chat_shifts.toml")
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


_CLOSERS = (
    "enough {}. ",
    "ok, {} done. ",
    "that's it with {}. ",
    "no more {} please. ",
    "so much for {}, ",
)
_FORMS = (
    *(
        "as a table",
        "in bullet points please",
        "as json",
        "put all of them in one list",
        "number them",
    ),
    *("all of that as csv", "with a header row", "without the explanation", "one line each"),
    *(
        "just the answer",
        "in one sentence",
        "shorter",
        "a bit longer",
        "use less words",
        "add a title",
    ),
    *(
        "make it bold",
        "in capital letters",
        "only the first three",
        "sorted, please",
        "as plain text",
    ),
    *(
        "same but shorter",
        "write it as one paragraph",
        "group them",
        "markdown please",
        "two columns",
    ),
    *(
        "can I have that as a list?",
        "no bullet points",
        "with numbers in front",
        "separate by commas",
    ),
)

# How often made-up chats do what.
STATED = 0.75  # a system prompt states the first task, where there is one
ASKED = 0.7  # the first turn says what to do
ASIDE = 0.12
SHIFT = 0.22
RETURN = 0.3  # of the shifts
BARE = 0.08  # of the shifts: nothing but an input shows it
CLOSED = 0.15  # of the shifts: the turn names what it is done with
OPERATION = 0.25  # of the shifts: with the material that is there
FORM = 0.25  # of the follow-ups: another form of the answer


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
        wide: It holds tasks that differ in substance, so that it stands for no request.
    """

    description: str
    asks: tuple[str, ...]
    requests: tuple[str, ...]
    inputs: tuple[str, ...]
    follow_ups: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    wide: bool = False

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


Part = Callable[[int], bool]


def _all(_: int) -> bool:
    return True


def load_written(seed: int = 0, part: Part = _all) -> tuple[list[ChatTask], Asides]:
    """
    Read the written tasks and asides and fill their templates.

    Args:
        seed: Equal seeds fill them equally.
        part: Which to take of each list, by number; a list of which nothing is left stays whole.
    """
    raw = [_part(entry, part) for entry in tomllib.loads(TASKS.read_text(encoding="utf8"))["task"]]
    other = _part(tomllib.loads(ASIDES.read_text(encoding="utf8")), part)
    rng = random.Random(seed)  # noqa: S311 - no secret
    tasks = [_written(entry, other, seed) for entry in raw]
    helpers = tuple(_fill(text, _chat(tasks, rng)) for text in other["helper"] for _ in range(2))
    asides = (*other["small_talk"], *other["about_assistant"])
    return tasks, Asides(asides, helpers, tuple(other["personas"]), tuple(other["system_tasks"]))


def _part(raw: Mapping[str, Any], part: Part) -> dict[str, Any]:
    return {
        name: [v for i, v in enumerate(value) if part(i)] or value
        if isinstance(value, list)
        else value
        for name, value in raw.items()
    }


def _written(raw: Mapping[str, Any], other: Mapping[str, Sequence[str]], seed: int) -> ChatTask:
    inputs: list[str] = raw["inputs"]
    # Each text draws for itself, so that a part of the lists is filled as the whole is.
    rng = random.Random()  # noqa: S311 - no secret
    asks = []
    for ask in raw["asks"]:
        for text in inputs[:3] if "{}" in ask else [""]:
            rng.seed(f"{seed} {ask} {text}")
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
            *(_led(other["going_on"], text, seed) for text in inputs),
        ),
        tuple(_fill(f, inputs[0]) for f in follow_ups),
        tuple(_led(other["returning"], text, seed) for text in inputs),
        tuple(raw.get("systems", ())),
        wide=raw.get("wide", False),
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


def _led(leads: Sequence[str], text: str, seed: int) -> str:
    """Put one of the phrases in front of an input."""
    rng = random.Random(f"{seed} {text}")  # noqa: S311 - no secret
    return _fill(rng.choice(leads), rng.choice([text, f'"{text}"']))


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


@dataclass(frozen=True, slots=True)
class WholeChat:
    """
    A chat written as a whole.

    Args:
        system: States task 1, if it is given.
        turns: The number of each turn's task, 0 for an aside, and what the user types.
    """

    system: str | None
    turns: tuple[tuple[int, str], ...]


def load_whole() -> list[WholeChat]:
    """Read the written chats."""
    raw = tomllib.loads(WHOLE.read_text(encoding="utf8"))["chat"]
    return [
        WholeChat(
            chat.get("system"), tuple((int(turn[0]), turn[2:].strip()) for turn in chat["turns"])
        )
        for chat in raw
    ]


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
    system = rng.choice(task.systems) if task.systems and rng.random() < STATED else None
    turns = []
    if system is None:
        turns.append(Said(rng.choice(task.asks if rng.random() < ASKED else task.inputs), current))
    for _ in range(rng.randint(3, 8)):
        luck = rng.random()
        if luck < ASIDE:
            turns.append(Said(rng.choice(asides), None))
        elif luck < ASIDE + SHIFT and (past or coming):
            returns = bool(past) and (not coming or rng.random() < RETURN)
            following = rng.choice(past) if returns else coming.pop()
            past = [current, *(i for i in past if i != following)]
            current, task = following, tasks[following]
            asks = (*task.asks, *task.returns, *task.returns) if returns else task.asks
            bare = not returns and rng.random() < BARE
            text = rng.choice(task.inputs if bare else asks)
            if not bare and not returns and rng.random() < OPERATION:
                text = rng.choice(_OPENERS) + rng.choice(task.requests)
            if not bare and rng.random() < CLOSED:
                word = rng.choice(tasks[past[0]].description.rstrip(".").lower().split()[1:])
                text = rng.choice(_CLOSERS).replace("{}", word) + text
            turns.append(Said(text, current, shifts=True))
        else:
            follow_ups = task.follow_ups or task.inputs
            if rng.random() < FORM:
                follow_ups = _FORMS
            kinds = (task.inputs, follow_ups, task.asks)
            (kind,) = rng.choices(kinds, (0.5, 0.35, 0.15))
            turns.append(Said(rng.choice(kind), current))
    return Chat(system, first, tuple(turns))
