"""
What serves a request, decided from what the library holds: values in, one value out.

A near-by description is not enough to reuse its adapter: opposites ("X to Y", "Y to X") lie nearer
than most paraphrases do. An adapter is therefore reused without further ado only if its score is
high, the margin over every other adapter is wide and the guard sees no contradiction; in between,
a new adapter is written and compared with the held one (see `settle`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adapters_store.identity import AdapterId
from adapters_store.names import SHARED
from adapters_store.records import AdapterRecord, Hit
from t2l_router.guard import Finding, contradictions


@dataclass(frozen=True, slots=True)
class Thresholds:
    """
    From where on adapters are reused; measured for one encoder and one hypernetwork.

    Args:
        score: Least score for reuse without comparing adapters.
        margin: Least lead over the best other adapter for the same.
        verify_score: Least score at which a new adapter is compared with the held one.
        max_distance: Largest delta-W distance at which the held one replaces the new one.
        encoder: Fingerprint of the encoder whose scores these are.
        hypernet_id: The hypernetwork whose distances these are.
    """

    score: float
    margin: float
    verify_score: float
    max_distance: float
    encoder: str = ""
    hypernet_id: str = ""

    @property
    def least_score(self) -> float:
        """Adapters that score less change no decision."""
        near = self.score - max(0.0, self.margin) if math.isfinite(self.score) else math.inf
        return min(self.verify_score, near)


UNCALIBRATED = Thresholds(score=math.inf, margin=math.inf, verify_score=math.inf, max_distance=0.0)
"""For encoders and hypernetworks nobody has measured: only the very same text reuses."""

_MINILM = "9b6430f9ceff49cbdebcce36f0f1886d5e8df02c9ee86c5ade54d8d9f62fb982"
# From tests/bench/results/calibrate{,-mean}--cpu.json; docs/reuse.md says how to measure others.
MEASURED = (
    # all-MiniLM-L6-v2 and the checkpoint that ships for SmolLM2-135M-Instruct. No score and margin
    # kept wrong reuse below 2 %, so everything but equal texts is compared.
    Thresholds(
        score=math.inf,
        margin=math.inf,
        verify_score=0.38,
        max_distance=0.4,
        encoder=_MINILM,
        hypernet_id="d47ebabe0bac9a36",
    ),
    # The same encoder; default.
    Thresholds(
        score=math.inf,
        margin=math.inf,
        verify_score=0.42,
        max_distance=0.3,
        encoder=_MINILM,
        hypernet_id="fa7968adbc239ae7",
    ),
)


def thresholds_for(encoder: str, hypernet_id: str) -> Thresholds:
    """Give what was measured for this very pair, else what reuses equal texts only."""
    for thresholds in MEASURED:
        if (thresholds.encoder, thresholds.hypernet_id) == (encoder, hypernet_id):
            return thresholds
    return UNCALIBRATED


@dataclass(frozen=True, slots=True)
class Match:
    """
    The nearest adapter and its lead.

    Args:
        adapter_id: The adapter.
        description: The text of its that is nearest to the request's.
        score: Cosine of the two, in [-1, 1].
        other: The best other adapter; None if there is none.
        other_score: That one's score.
    """

    adapter_id: AdapterId
    description: str
    score: float
    other: AdapterId | None = None
    other_score: float | None = None

    @property
    def margin(self) -> float:
        """The lead over the best other adapter; all of the score if it is the only one."""
        return self.score - max(0.0, self.other_score or 0.0)


@dataclass(frozen=True, slots=True)
class Reasons:
    """
    Everything a decision was taken from.

    Args:
        thresholds: The ones used.
        match: The nearest adapter; None where none was looked for or found.
        findings: What contradicts it.
    """

    thresholds: Thresholds
    match: Match | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Reuse:
    """A held adapter serves: of the very same text, of a near one, or compared with a new one."""

    adapter_id: AdapterId
    how: Literal["exact", "near", "verified"]
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class Verify:
    """A held adapter might serve: write a new one, measure their distance, then `settle`."""

    match: Match
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class Generate:
    """No held adapter serves this task: a new one does."""

    why: Literal["nothing near", "contradiction", "distance"]
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class UseBase:
    """No held adapter surely serves this task, and none may be written."""

    reasons: Reasons


Decision = Reuse | Verify | Generate | UseBase


def decide(
    description: str,
    hits: Sequence[Hit],
    *,
    tenant: str,
    thresholds: Thresholds,
    exact: AdapterRecord | None = None,
    may_generate: bool = True,
) -> Decision:
    """
    Choose what serves a task; never another tenant's adapter.

    Args:
        description: The task, validated.
        hits: What a search for it found, in any order.
        tenant: Who asks; adapters of his and shared ones may serve.
        thresholds: Measured for the encoder of the hits.
        exact: The adapter that this very text reached before.
        may_generate: False where a new adapter is too much for now.
    """
    if exact is not None:
        assert exact.tenant in (tenant, SHARED), f"{exact.id} belongs to {exact.tenant}"
        return Reuse(exact.id, "exact", Reasons(thresholds))
    match = nearest(hits, tenant=tenant)
    findings = contradictions(description, match.description) if match else ()
    reasons = Reasons(thresholds, match, findings)
    if match and not findings and is_near(match.score, match.margin, thresholds):
        return Reuse(match.adapter_id, "near", reasons)
    if not may_generate:
        return UseBase(reasons)
    if findings:
        # Not worth comparing: a hypernetwork that writes one adapter for a task and its opposite
        # would call them equal.
        return Generate("contradiction", reasons)
    if match and match.score >= thresholds.verify_score:
        return Verify(match, reasons)
    return Generate("nothing near", reasons)


def is_near(score: float, margin: float, thresholds: Thresholds) -> bool:
    """Whether score and margin alone suffice for reuse."""
    return score >= thresholds.score and margin >= thresholds.margin


def verified(distance: float, thresholds: Thresholds) -> bool:
    """Whether a held adapter does what the new one does; a distance that isn't a number doesn't."""
    return distance <= thresholds.max_distance


def settle(decision: Verify, distance: float) -> Reuse | Generate:
    """
    Decide after the comparison which of the two adapters serves.

    Args:
        decision: What asked for the comparison.
        distance: Delta-W distance of the new adapter and the held one, 0 to 2.
    """
    if verified(distance, decision.reasons.thresholds):
        return Reuse(decision.match.adapter_id, "verified", decision.reasons)
    return Generate("distance", decision.reasons)


def nearest(hits: Sequence[Hit], *, tenant: str) -> Match | None:
    """
    Find the best adapter and the best other one; None without hits.

    Args:
        hits: In any order; of several for one adapter the best counts.
        tenant: Whose they must be, or shared.
    """
    strangers = [hit.adapter.tenant for hit in hits if hit.adapter.tenant not in (tenant, SHARED)]
    assert not strangers, f"a search for {tenant} found adapters of {sorted(set(strangers))}"
    ranked: dict[AdapterId, Hit] = {}
    # Equal scores: the order must not depend on the search's.
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.adapter.id, hit.description)):
        ranked.setdefault(hit.adapter.id, hit)
    if not ranked:
        return None
    best, *others = ranked.values()
    other, other_score = (others[0].adapter.id, others[0].score) if others else (None, None)
    return Match(best.adapter.id, best.description, best.score, other, other_score)
