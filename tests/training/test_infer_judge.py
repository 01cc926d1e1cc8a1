"""The judge of topic shifts: its material and its training."""

import numpy as np

from training.chat import load_whole
from training.infer_judge import WHOLE, Seen, cross_validated, fit_judge

RNG = np.random.default_rng(0)


def drawn(n: int) -> tuple[list[np.ndarray], list[int]]:
    """Evidence whose second number tells a shift and whose third an aside."""
    labels = RNG.integers(3, size=n)
    rows = RNG.normal(size=(n, 5)).astype(np.float32)
    rows[np.arange(n), labels] += 4
    return list(rows), labels.tolist()


def test_written_chats() -> None:
    """Each turn says which task it is at; tasks are numbered as they come."""
    for chat in load_whole():
        known = 1 if chat.system else 0
        for number, text in chat.turns:
            assert text
            assert number <= known + 1
            known = max(known, number)
        assert known > 1 or len(chat.turns) > 3


def test_judge_learns() -> None:
    """What evidence tells is learned, and equal seeds give equal judges."""
    rows, labels = drawn(600)
    judge, again = (fit_judge(np.stack(rows), labels, seed=1, steps=80) for _ in range(2))

    said = [int(np.argmax(judge(row))) for row in rows]

    assert np.mean(np.array(said) == labels) > 0.9
    assert judge(rows[0]) == again(rows[0])
    assert abs(sum(judge(rows[0])) - 1) < 1e-5


def test_weights_of_written_chats() -> None:
    """A written chat's turns count more, and not at all where it is left out."""
    seen = Seen()
    seen.add(drawn(3))
    seen.add(drawn(2), whole=0)
    seen.add(drawn(1), whole=1)

    assert len(seen.weighted()[1]) == 3 + 3 * WHOLE
    rows, labels = seen.weighted(lambda number: number == 0)
    assert (len(rows), len(labels)) == (3 + WHOLE, 3 + WHOLE)


def test_cross_validation_scores_written_chats_only() -> None:
    """Every turn of the written chats is judged once, by a judge that never saw its chat."""
    seen = Seen()
    seen.add(drawn(400))
    for number in range(5):
        seen.add(drawn(20), whole=number)

    figures = cross_validated(seen, seed=0)

    assert figures["turns"] == 100
    assert figures["shift_precision"] > 0.8
    assert figures["shift_recall"] > 0.8
