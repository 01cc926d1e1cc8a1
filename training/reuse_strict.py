"""
Reuse judged by losses on the task's own examples, against a plain cosine threshold.

    python -m training.reuse_strict --pack reuse.safetensors --losses losses.json --json FILE

A reuse is wrong if the adapter that serves is worse than the one that would have been written for
the query, by more than the noise: the mean of its losses on the task's test examples is higher,
paired by example, by a one-sided t-test at 5 % (1 %), and by more than two wordings of one task
differ in 95 % (99 %) of the tasks that thresholds are chosen on. The opposite's adapter is always
wrong. ``wordings`` is what to hold this against: how often the adapter of another unseen wording of
the same task, served without any comparison, is wrong by the same test.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_rel

from t2l_router import policy
from training.reuse_curve import upper_bound
from training.reuse_offers import Offer, Pack
from training.reuse_score import Losses

TESTS = {"95 %": (0.95, 0.05), "99 %": (0.99, 0.01)}  # quantile of the noise, level of the test
TARGET = 0.02
REPORTED = ("check", "heldout")
DISTANCES = [step / 50 for step in range(2, 31)]
COSINES = [step / 50 for step in range(30, 50)]
Rule = Callable[[Offer], bool]


@dataclass(frozen=True, slots=True)
class Rate:
    """
    What a rule does.

    Args:
        hit_rate: Share of queries with their task in the library for which an adapter is reused.
        reuses: In all situations.
        wrong: Wrong ones.
        wrong_opposites: Of those, served the opposite.
        wrong_own: Of those, served an adapter of the query's own task.
        bound: Upper 95 % Clopper-Pearson bound of the share of wrong ones.
        excess: Mean loss of what serves less that of a new adapter, nats a token.
    """

    hit_rate: float
    reuses: int
    wrong: int
    wrong_opposites: int
    wrong_own: int
    bound: float
    excess: float


class Judgement:
    """
    Says which offers would be wrong to reuse.

    Args:
        pack: The offers.
        losses: Of their adapters.
        quantile: Of the differences between wordings: the noise.
        level: Of the t-test.
    """

    def __init__(
        self, pack: Pack, losses: Losses, *, quantile: float = 0.95, level: float = 0.05
    ) -> None:
        self._losses, self._level = losses, level
        tuning = sorted({o.task for o in pack.offers if o.part == "choose" and o.task >= 0})
        differences = [
            abs(self._mean(task, alias) - self._mean(task, row))
            for task in tuning
            if pack.examples[task]
            for alias, *others in [pack.wordings[task]]
            for row in others
        ]
        self.noise = float(np.quantile(differences, quantile))
        self.n_noise = len(differences)

    def excess(self, offer: Offer) -> float:
        """How much more loss the found adapter has than a new one, nats a token."""
        return self._mean(offer.task, offer.held) - self._mean(offer.task, offer.fresh)

    def is_wrong(self, offer: Offer) -> bool:
        """Whether the found adapter would be worse than a new one by more than the noise."""
        if offer.task < 0:
            return True
        return self.is_worse(offer.task, offer.held, offer.fresh)

    def is_worse(self, task: int, held: int, fresh: int) -> bool:
        """The same of two adapters, by the rows they are made from."""
        if held == fresh or self._mean(task, held) - self._mean(task, fresh) <= self.noise:
            return False
        pair = self._losses[task, held], self._losses[task, fresh]
        return bool(ttest_rel(*pair, alternative="greater").pvalue < self._level)

    def wordings(self, pack: Pack) -> tuple[int, int]:
        """How often another wording's adapter is wrong on the reported tasks, of how many."""
        tasks = {o.task for o in pack.offers if o.part in REPORTED and self.is_scored(o)} - {-1}
        pairs = [
            (task, held, fresh)
            for task in tasks
            for held, fresh in permutations(pack.wordings[task][1:])
        ]
        return sum(self.is_worse(*pair) for pair in pairs), len(pairs)

    def is_scored(self, offer: Offer) -> bool:
        """Whether the task has examples to tell by."""
        return offer.task < 0 or len(self._losses[offer.task, offer.fresh]) > 1

    def _mean(self, task: int, row: int) -> float:
        return float(np.mean(self._losses[task, row]))


def cosine(least: float) -> Rule:
    """Reuse as response caches do."""
    return lambda offer: offer.score >= least


def compared(verify_score: float, max_distance: float) -> Rule:
    """Reuse as the router does after a comparison."""
    return lambda offer: (
        not offer.is_contradicted and offer.score >= verify_score and offer.distance <= max_distance
    )


def rate(offers: Iterable[Offer], rule: Rule, judgement: Judgement, *, asked: int) -> Rate:
    """Count what a rule does to offers; *asked* queries had their task in the library."""
    reused = [offer for offer in offers if rule(offer)]
    wrong = [offer for offer in reused if judgement.is_wrong(offer)]
    costs = [judgement.excess(offer) for offer in reused if offer.task >= 0]
    return Rate(
        sum(offer.situation == "present" for offer in reused) / asked,
        len(reused),
        len(wrong),
        sum(offer.task < 0 for offer in wrong),
        sum(offer.is_own for offer in wrong),
        upper_bound(len(wrong), len(reused)),
        float(np.mean(costs)) if costs else 0.0,
    )


def report(pack: Pack, judgement: Judgement) -> dict[str, Any]:
    """Choose the distance on one half of the tasks and state the rates of the others."""
    verify_score = policy.MEASURED[0].verify_score if policy.MEASURED else 0.0
    sizes = sorted({offer.n_aliases for offer in pack.offers})
    scored = [offer for offer in pack.offers if judgement.is_scored(offer)]

    def rates(parts: Sequence[str], n: int, rule: Rule) -> Rate:
        chosen = [o for o in scored if o.part in parts and o.n_aliases == n]
        asked = sum(pack.facts["asked"][f"{n} {part} present"] for part in parts)
        return rate(chosen, rule, judgement, asked=asked)

    def largest(rules: dict[float, Rule]) -> float | None:
        """The most generous of some rules whose bound holds on the tasks to choose on."""
        return max(
            (
                at
                for at, rule in rules.items()
                if all(rates(["choose"], n, rule).bound <= TARGET for n in sizes)
            ),
            key=lambda at: sum(rates(["choose"], n, rules[at]).hit_rate for n in sizes),
            default=None,
        )

    comparisons = {d: compared(verify_score, d) for d in DISTANCES}
    plain = {c: cosine(c) for c in COSINES}
    rules = {"cosine 0.8": cosine(0.8)}
    for name, family in (("compared", comparisons), ("cosine", plain)):
        if (best := largest(family)) is not None:
            rules[f"{name} {best:g}, chosen"] = family[best]
    for d in (0.3, 0.4, 0.46):
        rules[f"compared {d:g}"] = comparisons[d]
    wrong, n_wordings = judgement.wordings(pack)
    return {
        "noise": judgement.noise,
        "n_noise": judgement.n_noise,
        "wordings": {"wrong": wrong, "n": n_wordings, "bound": upper_bound(wrong, n_wordings)},
        "verify_score": verify_score,
        "rates": {
            f"{n} {part}": {
                name: asdict(rates(REPORTED if part == "both" else [part], n, rule))
                for name, rule in rules.items()
            }
            for n in sizes
            for part in (*REPORTED, "both")
        },
        "curves": {
            str(n): {
                name: [[at, asdict(rates(REPORTED, n, rule))] for at, rule in family.items()]
                for name, family in (("compared", comparisons), ("cosine", plain))
            }
            for n in sizes
        },
    }


def _table(document: dict[str, Any]) -> Table:
    table = Table(
        "ALIASES, TASKS", "RULE", "REUSED", "WRONG", "OPPOSITES", "OWN", "BOUND", "EXCESS", box=None
    )
    for part, rules in document["rates"].items():
        for name, r in rules.items():
            table.add_row(
                part,
                name,
                f"{r['hit_rate']:.1%}",
                f"{r['wrong']} of {r['reuses']}",
                str(r["wrong_opposites"]),
                str(r["wrong_own"]),
                f"{r['bound']:.1%}",
                f"{r['excess']:+.3f}",
            )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description="Judge reuse by losses.")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--losses", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    pack = Pack.load(args.pack)
    scored = json.loads(args.losses.read_text())
    losses: Losses = {(task, row): values for task, row, values in scored.pop("losses")}
    metrics = {}
    for name, (quantile, level) in TESTS.items():
        found = report(pack, Judgement(pack, losses, quantile=quantile, level=level))
        metrics[name] = found
        print(f"\n{name}: noise {found['noise']:.3f} nats a token, of {found['n_noise']} pairs")
        print("another wording of the same task: {wrong} of {n} wrong".format(**found["wordings"]))
        Console(width=120).print(_table(found))
    if args.json:
        setup = scored | pack.facts | {"tests": TESTS}
        run = {"command": "python -m training.reuse_strict"}
        args.json.write_text(
            json.dumps({"run": run, "setup": setup, "metrics": metrics}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
