"""Other views of a pack: one-hot task embeddings, fewer tasks, fewer descriptions."""

import dataclasses

import numpy as np

from t2l_router.errors import ConfigError
from training.data import Pack


def one_hot(pack: Pack) -> Pack:
    """Give the same examples with one-hot task embeddings instead of descriptions."""
    n_tasks = len(pack.facts["tasks"])
    names = {"encoder": "one-hot", "encoder_fingerprint": f"one-hot-{n_tasks}"}
    facts = {key: value for key, value in pack.facts.items() if key != "descriptions"}
    return dataclasses.replace(
        pack,
        embeddings=np.eye(n_tasks, dtype=np.float32),
        embedding_tasks=np.arange(n_tasks, dtype=np.int32),
        terse=np.zeros(n_tasks, np.int8),
        facts=facts | names,
    )


def take(pack: Pack, *, tasks: int = 0, descriptions: int = 0, seed: int = 0) -> Pack:
    """
    Keep a part of a pack, chosen at random; a larger part of the tasks holds every smaller one.

    Args:
        pack: What to take from.
        tasks: How many tasks; 0 keeps all.
        descriptions: How many descriptions of each style a task; 0 keeps all.
        seed: Decides which.

    Raises:
        ConfigError: The pack has fewer tasks.
    """
    if not tasks and not descriptions:
        return pack
    names = pack.facts["tasks"]
    if tasks > len(names):
        raise ConfigError(f"the pack has {len(names)} tasks, not {tasks}")
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(names))[:tasks] if tasks else np.arange(len(names))
    number = np.full(len(names), -1)
    number[kept] = np.arange(len(kept))

    examples = np.flatnonzero(number[pack.tasks] >= 0)
    ranges = [np.arange(pack.starts[i], pack.starts[i + 1]) for i in examples]
    lengths = [len(tokens) for tokens in ranges]
    texts = np.flatnonzero(number[pack.embedding_tasks] >= 0)
    if descriptions:
        # The pack's order of a task's descriptions is random already.
        count: dict[tuple[int, int], int] = {}
        first = []
        for row in texts:
            key = (int(pack.embedding_tasks[row]), int(pack.terse[row]))
            count[key] = count.get(key, 0) + 1
            if count[key] <= descriptions:
                first.append(row)
        texts = np.array(first)
    return Pack(
        tokens=pack.tokens[np.concatenate(ranges)],
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        answers=pack.answers[examples],
        tasks=number[pack.tasks[examples]].astype(np.int32),
        kinds=pack.kinds[examples],
        embeddings=pack.embeddings[texts],
        embedding_tasks=number[pack.embedding_tasks[texts]].astype(np.int32),
        terse=pack.terse[texts],
        facts={
            **pack.facts,
            "tasks": [names[i] for i in kept],
            "descriptions": [pack.facts["descriptions"][row] for row in texts],
        },
    )
