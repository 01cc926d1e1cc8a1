"""Which of a task's examples are answered, and which are shown in context."""

import random

from t2l_router.errors import ConfigError
from training.corpus import Example, Task

_SHOTS = 3


def sample(task: Task, limit: int, seed: int) -> tuple[list[Example], list[Example]]:
    """
    Choose a task's examples: those to answer, and those to show in context.

    Returns:
        At most *limit* test examples, and training examples; tasks that may not be trained on
        show test examples that aren't answered.

    Raises:
        ConfigError: The task has no test example.
    """
    pool = list(task.examples("test"))
    if not pool:
        raise ConfigError(f"{task.path}: no test example")
    random.Random(f"{seed}/{task.name}").shuffle(pool)  # noqa: S311 - sampling, not secrets
    return pool[:limit], list(task.examples("train")) or pool[limit:]


def choose_shots(task: Task, pool: list[Example], seed: int) -> list[Example]:
    """The shortest three of ten drawn: long ones would push each other out of the prompt."""
    drawn = list(pool)
    random.Random(f"{seed}/{task.name}").shuffle(drawn)  # noqa: S311 - sampling, not secrets
    return sorted(drawn[:10], key=lambda shot: len(shot.text))[:_SHOTS]
