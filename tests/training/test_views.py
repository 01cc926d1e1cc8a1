"""Parts of a pack keep their examples and descriptions."""

import numpy as np
import pytest

from t2l_router.errors import ConfigError
from training.data import Sampler
from training.views import one_hot, take


def examples_of(pack, task: str) -> set[tuple[int, ...]]:
    index = pack.facts["tasks"].index(task)
    return {
        tuple(pack.tokens[pack.starts[i] : pack.starts[i + 1]].tolist())
        for i in np.flatnonzero(pack.tasks == index)
    }


def test_taken_tasks_keep_what_is_theirs(pack) -> None:
    """Fewer tasks, each with all its examples and its own descriptions, and rows to draw."""
    part = take(pack, tasks=2, seed=1)

    assert len(part.facts["tasks"]) == 2
    for index, task in enumerate(part.facts["tasks"]):
        whole = pack.facts["tasks"].index(task)
        assert examples_of(part, task) == examples_of(pack, task)
        mine = part.embeddings[part.embedding_tasks == index]
        assert np.array_equal(mine, pack.embeddings[pack.embedding_tasks == whole])
        said = [
            part.facts["descriptions"][i] for i in np.flatnonzero(part.embedding_tasks == index)
        ]
        assert said
        assert all(task in text for text in said)
    assert len(part.answers) == len(part.starts) - 1
    assert Sampler(part, tasks_per_step=2, row_tokens=200).batch(0).embeddings.shape == (2, 24)


def test_larger_parts_hold_smaller_ones(pack) -> None:
    """A curve over the number of tasks adds tasks, it doesn't exchange them."""
    one, two = (take(pack, tasks=n).facts["tasks"] for n in (1, 2))
    assert set(one) < set(two)


def test_fewer_descriptions(pack) -> None:
    """So many of each style a task."""
    part = take(pack, descriptions=1)
    for task in range(3):
        assert sorted(part.terse[part.embedding_tasks == task]) == [0, 1, 2]
    assert part.facts["tasks"] == pack.facts["tasks"]
    assert len(part.facts["descriptions"]) == len(part.embeddings) == 9
    assert np.array_equal(part.tokens, pack.tokens)
    assert take(pack) is pack


def test_more_tasks_than_there_are(pack) -> None:
    """Asking for too many is an error, not a smaller part."""
    with pytest.raises(ConfigError, match="3 tasks, not 4"):
        take(pack, tasks=4)


def test_one_hot_keeps_examples(pack) -> None:
    """Only the embeddings change."""
    view = one_hot(pack)
    assert np.array_equal(view.tokens, pack.tokens)
    assert np.array_equal(view.embeddings, np.eye(3))
