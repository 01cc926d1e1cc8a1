import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from t2l_router.errors import ConfigError
from training import calibrate, opposites
from training.corpus import Task
from training.reuse_cases import divide, find_cases
from training.reuse_losses import LEAST_PAIRS, Comparison, farthest_harmless, noise
from training.reuse_outcome import evaluate
from training.reuse_report import document, grid_table, plot, rows, table

ANIMALS = ["cat", "dog", "fox", "owl", "bee", "cow"]


def task(name: str, split: str = "train") -> Task:
    return Task(
        name=name,
        split=split,
        family="toys",
        licence_class="permissive",
        definition=name,
        descriptions=tuple(f"Please do the {name} thing for me, way {i}." for i in range(9)),
        training_descriptions=(),
        terse_descriptions=tuple(f"{name} pls {i}" for i in range(5)),
        path=Path("nowhere"),
    )


class WordEncoder:
    """A text's embedding is the sum of a random vector for each of its words."""

    def embed(self, texts):
        rows = np.array([sum(map(self._word, text.lower().split())) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word):
        return np.random.default_rng(list(word.strip(".,").encode())).normal(size=64)


@dataclasses.dataclass
class Point:
    """Stands for an adapter: its delta-W is the embedding it was made from."""

    at: np.ndarray

    def delta_distance(self, other):
        return float(np.linalg.norm(self.at - other.at))


def points(texts, embeddings):
    return [Point(row) for row in embeddings]


@pytest.fixture(scope="module")
def described():
    return divide([task(name) for name in ANIMALS], aliases=10, queries=2)


@pytest.fixture(scope="module")
def cases(described):
    pairs = [("Translate English to French.", "Translate French to English.")]
    return find_cases(described, pairs, encoder=WordEncoder(), write=points, n_aliases=(1, 10))


def test_divide_keeps_queries_unseen(described) -> None:
    """No query is an alias, of any task; both styles are on both sides."""
    aliases = {text for entry in described for text in entry.aliases}

    for entry in described:
        assert (len(entry.aliases), len(entry.queries)) == (10, 4)
        assert aliases.isdisjoint(entry.queries)
        assert [text.endswith("pls") or " pls " in text for text in entry.queries] == [
            False, False, True, True,
        ]  # fmt: skip


def test_divide_refuses_a_corpus_without_paraphrases() -> None:
    """Tasks with too few descriptions are left out, and none left is an error."""
    with pytest.raises(ConfigError, match="20 aliases"):
        divide([task("cat")], aliases=20)


def test_every_query_is_asked_with_and_without_its_task(cases, described) -> None:
    """Present and absent queries come in pairs, and an absent task is never found."""
    for found in cases.values():
        present = [c for c in found if c.query.situation == "present"]
        absent = [c for c in found if c.query.situation == "absent"]
        assert [c.query.text for c in present] == [c.query.text for c in absent]
        assert len(present) == 4 * len(ANIMALS)
        assert all(c.found != c.query.task for c in absent)
        assert all(c.found < len(described) for c in (*present, *absent))


def test_more_aliases_never_lower_the_score(cases) -> None:
    """The best of ten aliases is at least as near as the first."""
    for one, ten in zip(cases[1], cases[10], strict=True):
        assert ten.query == one.query
        assert ten.score >= one.score
        assert ten.own_distance == one.own_distance


def test_scores_are_cosines_to_the_named_alias(cases) -> None:
    """Score and margin can be computed again from the texts."""
    encoder = WordEncoder()
    case = cases[10][0]
    query, alias = encoder.embed([case.query.text, case.alias])

    assert case.score == pytest.approx(float(query @ alias), abs=1e-6)
    assert 0 <= case.margin <= case.score


def test_an_opposite_sees_the_text_it_turns_round(cases, described) -> None:
    """The nearest entry of an opposite is the other text of its pair, and the guard objects."""
    turned = [c for c in cases[10] if c.query.situation == "opposite"]

    assert [c.alias for c in turned] == [
        "Translate French to English.",
        "Translate English to French.",
    ]
    assert all(c.is_contradicted and c.found >= len(described) for c in turned)


def test_parts_share_no_task(cases, described) -> None:
    """Thresholds are stated on tasks they weren't chosen on."""
    held = [dataclasses.replace(described[0], task=task("cat", "heldout")), *described[1:]]
    pairs = [c for c in cases[10] if c.query.situation != "opposite"]
    parts = calibrate.divide_cases(pairs, held, ["heldout"])
    tasks = [{c.query.task for c in part} for part in parts.values()]

    assert tasks[2] == {0}
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == len(ANIMALS)


def test_too_few_cases_carry_no_bound(cases, described, tmp_path) -> None:
    """The outcome then refuses reuse by score, and its JSON has no infinity."""
    libraries = {
        n: calibrate.divide_cases(
            [c for c in found if c.query.situation != "opposite"], described, []
        )
        for n, found in cases.items()
    }
    outcome = evaluate(libraries, max_distance=0.5, target=0.02)

    assert math.isinf(outcome.thresholds.score)
    assert outcome.rates[10]["check"]["near"].n == 0
    assert outcome.rates[10]["check"]["near or verified"].wrong == 0
    losses = [Comparison(0.1, 0.0, 1.0, "paraphrase"), Comparison(0.1, 0.1, 1.0, "other task")]
    report = document(outcome, losses, target=0.02, guard={}, facts={}, began=0.0)
    text = json.dumps(report, allow_nan=False)
    assert report["thresholds"]["score"] is None
    assert '"hit_rate"' in text
    plot(outcome, tmp_path / "img" / "curve.png", target=0.02)
    assert (tmp_path / "img" / "curve.png").stat().st_size > 1_000
    assert table(outcome).row_count == len(rows(outcome)) == 20
    assert grid_table(outcome).row_count > 0


def test_guard_rates_are_shares(described) -> None:
    """The published rates of the guard name what they were counted on."""
    found = calibrate.guard_rates(described)

    assert found["n_opposites"] == len(opposites.CHECKING)
    assert found["n_paraphrases"] == 10 * 4 * len(ANIMALS)
    assert 0.5 < found["opposites_found"] < 1


def test_opposites_are_divided_without_overlap() -> None:
    """No pair that the guard's tables were written with counts in its published rate."""
    assert set(opposites.TUNING).isdisjoint(opposites.CHECKING)


def comparisons(harmless_up_to: float) -> list[Comparison]:
    paraphrases = [Comparison(0.3, 0.001 * i, 1.0, "paraphrase") for i in range(100)]
    others = [
        Comparison(i / 100, 0.0 if i / 100 <= harmless_up_to else 1.0, 1.0, "other task")
        for i in range(100)
    ]
    return paraphrases + others


def test_harmless_distance_is_measured_by_paraphrases() -> None:
    """It ends before other adapters differ more, on average, than paraphrases' do (0.05)."""
    assert noise(comparisons(0.5)) == pytest.approx(0.094, abs=0.001)
    assert farthest_harmless(comparisons(0.5)) == 0.5
    assert farthest_harmless(comparisons(2)) == 2


def test_harmless_distance_needs_pairs() -> None:
    """A handful of pairs shows nothing, and neither do harmful ones."""
    few = [c for c in comparisons(0.5) if c.kind == "paraphrase" or c.distance < 0.1]

    assert len(few) < 100 + LEAST_PAIRS
    assert farthest_harmless(few) == 0
    assert farthest_harmless(comparisons(-1)) == 0
