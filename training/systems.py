"""The systems that an evaluation compares: what the prompt says, and which adapter answers."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from t2l_router.errors import ConfigError
from training.corpus import Task

Prompt = Literal["input", "definition", "description", "examples"]
Adapter = Literal[
    "none", "description", "definition", "terse", "shuffled", "random", "input", "ensemble",
    "nothing", "shared", "average", "arrow", "nearest", "oracle",
]  # fmt: skip
Examples = Literal["none", "own", "shuffled"]


@dataclass(frozen=True, slots=True)
class System:
    """
    One way of answering a task's inputs.

    Args:
        name: Its name in results.
        prompt: What stands in front of the task's input.
        adapter: Which text the adapter is made from (``input``: each example's own), or which
            trained adapters answer: one for all tasks, the training tasks' oracles averaged, routed
            or the nearest one, or the task's own oracle. ``ensemble`` is the mean embedding of all
            the task's descriptions; ``nothing`` leaves it to the examples.
        examples: Whose examples the adapter is made from, too: the three that ``few-shot`` shows,
            or those of another task.
    """

    name: str
    prompt: Prompt
    adapter: Adapter
    examples: Examples = "none"

    @property
    def is_drawn(self) -> bool:
        """Whether the answers depend on a draw: of a description, examples or a random string."""
        drawn = ("description", "terse", "shuffled", "random", "nearest")
        prompts = ("description", "examples")
        return self.adapter in drawn or self.prompt in prompts or self.examples != "none"


SYSTEMS = {
    system.name: system
    for system in (
        System("base", "input", "none"),
        System("definition", "definition", "none"),
        System("description", "description", "none"),
        System("t2l", "input", "description"),
        System("t2l-description", "description", "description"),
        System("t2l-terse", "input", "terse"),
        System("t2l-shuffled", "input", "shuffled"),
        System("t2l-definition", "input", "definition"),
        System("t2l-random", "input", "random"),
        System("t2l-ensemble", "input", "ensemble"),
        System("t2l-examples", "input", "description", "own"),
        System("t2l-ensemble-examples", "input", "ensemble", "own"),
        System("t2l-examples-shuffled", "input", "description", "shuffled"),
        System("examples-only", "input", "nothing", "own"),
        System("examples-only-shuffled", "input", "nothing", "shuffled"),
        System("hyperdecoder", "input", "input"),
        System("few-shot", "examples", "none"),
        System("multi-task", "input", "shared"),
        System("multi-task-description", "description", "shared"),
        System("average", "input", "average"),
        System("arrow", "input", "arrow"),
        System("nearest-oracle", "input", "nearest"),
        System("oracle", "input", "oracle"),
    )
}


def choose(names: str) -> list[System]:
    """
    Look up systems by their comma-separated names.

    Raises:
        ConfigError: Naming the unknown one and all known.
    """
    unknown = set(names.split(",")) - set(SYSTEMS)
    if unknown:
        raise ConfigError(f"unknown system {min(unknown)!r}; known: {', '.join(SYSTEMS)}")
    return [SYSTEMS[name] for name in names.split(",")]


def described(tasks: Sequence[Task], adapter: Adapter, seed: int) -> list[str]:
    """
    Choose the text from which each task's adapter is made.

    Args:
        tasks: At least two for ``shuffled``, which gives each task another one's description.
        adapter: ``description``, ``definition``, ``terse``, ``shuffled`` or ``random``.
        seed: Decides which of a task's descriptions.
    """
    pick = _pick(seed)
    if adapter == "random":
        return [random_text(task, seed) for task in tasks]
    if adapter == "definition":
        return [task.definition for task in tasks]
    if adapter == "terse":
        return [pick(task, task.terse_descriptions or task.descriptions) for task in tasks]
    texts = [pick(task, task.descriptions) for task in tasks]
    if adapter == "shuffled":
        texts = [texts[i] for i in others(len(tasks), seed)]
    return texts


def others(n: int, seed: int) -> list[int]:
    """Give each of *n* tasks another one: a cycle through a random order."""
    order = list(range(n))
    random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not secrets
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[i] for i in range(n)]


def random_text(task: Task, seed: int) -> str:
    """Give a string of random letters and spaces, about as long as a description."""
    letters = string.ascii_lowercase + " " * 5
    return "".join(random.Random(f"random/{seed}/{task.name}").choices(letters, k=120))  # noqa: S311


def instruction(task: Task, prompt: Prompt, seed: int) -> str | None:
    """Give what stands in front of the input."""
    if prompt == "definition":
        return task.definition
    return _pick(seed)(task, task.descriptions) if prompt == "description" else None


def _pick(seed: int) -> Callable[[Task, Sequence[str]], str]:
    def pick(task: Task, texts: Sequence[str]) -> str:
        return random.Random(f"{seed}/{task.name}").choice(texts)  # noqa: S311

    return pick
