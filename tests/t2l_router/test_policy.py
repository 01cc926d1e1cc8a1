import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.identity import AdapterId
from adapters_store.names import SHARED
from adapters_store.records import AdapterRecord, Hit, Lineage
from t2l_router import policy
from t2l_router.policy import Generate, Reuse, Thresholds, UseBase, Verify, decide

THRESHOLDS = Thresholds(score=0.8, margin=0.1, verify_score=0.5, max_distance=0.3)
TASK = "Translate English sentences into French."
RANK = {Reuse: 0, Verify: 1, Generate: 2}


def record(name: str, tenant: str = "acme") -> AdapterRecord:
    return AdapterRecord(
        key=1,
        id=AdapterId(f"t2l-{name}"),
        tenant=tenant,
        state="approved",
        base="b" * 64,
        base_model="tiny",
        rank=8,
        alpha=16.0,
        rslora=True,
        target_modules=("q_proj",),
        size_bytes=1,
        delta_norm=1.0,
        lineage=Lineage(),
        pinned=False,
        hits=0,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        last_used_at=None,
        deleted_at=None,
        description=TASK,
        n_descriptions=1,
        tags=(),
        aliases=(),
    )


def hit(name: str, score: float, *, text: str = TASK, tenant: str = "acme") -> Hit:
    return Hit(record(name, tenant), score, text)


SCORES = st.floats(-1, 1)
TEXTS = st.sampled_from(
    [TASK, "Translate French sentences into English.", "Sort the words.", "Put it into French."]
)
HITS = st.lists(
    st.builds(
        hit,
        st.sampled_from("abc"),
        SCORES,
        text=TEXTS,
        tenant=st.sampled_from(["acme", SHARED]),
    ),
    max_size=6,
)
LIMITS = st.builds(
    Thresholds, score=SCORES, margin=SCORES, verify_score=SCORES, max_distance=st.floats(0, 2)
)
RAISES = st.floats(0, 2)


def choose(hits, thresholds=THRESHOLDS, **options):
    return decide(TASK, hits, tenant="acme", thresholds=thresholds, **options)


def test_near_and_alone_is_reused() -> None:
    """A high score with a wide margin is reused, and the reasons say so."""
    decision = choose([hit("a", 0.9), hit("b", 0.7)])

    assert isinstance(decision, Reuse)
    assert (decision.adapter_id, decision.how) == ("t2l-a", "near")
    match = decision.reasons.match
    assert match.other == "t2l-b"
    assert match.margin == pytest.approx(0.2)
    assert decision.reasons.thresholds is THRESHOLDS


def test_margin_counts_other_adapters_only() -> None:
    """A second description of the same adapter doesn't shrink its lead."""
    decision = choose([hit("a", 0.9), hit("a", 0.89), hit("b", 0.7)])

    assert isinstance(decision, Reuse)
    assert decision.reasons.match.margin == pytest.approx(0.2)


def test_narrow_margin_is_verified() -> None:
    """Between two near adapters a comparison decides."""
    decision = choose([hit("a", 0.9), hit("b", 0.85)])

    assert isinstance(decision, Verify)
    assert decision.match.adapter_id == "t2l-a"
    reuse = policy.settle(decision, 0.3)
    assert isinstance(reuse, Reuse)
    assert (reuse.adapter_id, reuse.how) == ("t2l-a", "verified")
    assert policy.settle(decision, 0.31) == Generate("distance", decision.reasons)


def test_distance_that_is_no_number_keeps_the_new_adapter() -> None:
    """A broken comparison never leads to reuse."""
    assert isinstance(policy.settle(choose([hit("a", 0.6)]), math.nan), Generate)


def test_nothing_near_generates() -> None:
    """Without hits, or with far ones only, a new adapter is written."""
    assert choose([]) == Generate("nothing near", policy.Reasons(THRESHOLDS))
    assert isinstance(choose([hit("a", 0.4)]), Generate)


def test_opposite_is_not_reused() -> None:
    """However near, the opposite direction gets its own adapter."""
    decision = choose([hit("a", 0.99, text="Translate French sentences into English.")])

    assert isinstance(decision, Generate)
    assert decision.why == "contradiction"
    assert decision.reasons.findings[0].kind == "direction"


def test_exact_text_is_reused_whatever_is_near() -> None:
    """The very same text needs neither score nor margin."""
    decision = choose([hit("b", 0.99)], policy.UNCALIBRATED, exact=record("a"))

    assert isinstance(decision, Reuse)
    assert (decision.adapter_id, decision.how) == ("t2l-a", "exact")


def test_without_generation_only_sure_reuse_or_base() -> None:
    """Where nothing may be written, doubt means the base model."""
    assert isinstance(choose([hit("a", 0.9)], may_generate=False), Reuse)
    assert isinstance(choose([hit("a", 0.6)], may_generate=False), UseBase)
    assert isinstance(choose([], may_generate=False), UseBase)


def test_uncalibrated_generates() -> None:
    """Nothing but the same text is reused with an encoder that nobody measured."""
    assert isinstance(choose([hit("a", 1.0)], policy.UNCALIBRATED), Generate)


def test_thresholds_belong_to_encoder_and_hypernetwork() -> None:
    """Measured thresholds are given for exactly what they were measured with."""
    for known in policy.MEASURED:
        assert policy.thresholds_for(known.encoder, known.hypernet_id) is known
    assert policy.thresholds_for("other", known.hypernet_id) is policy.UNCALIBRATED
    assert policy.thresholds_for(known.encoder, "other") is policy.UNCALIBRATED


@pytest.mark.parametrize(
    ("known", "name"), [*zip(policy.MEASURED, ("calibrate", "calibrate-mean"), strict=True)]
)
def test_thresholds_are_the_published_ones(known, name: str) -> None:
    """What is in the code is what the benchmark's result says."""
    results = Path(__file__).parents[1] / "bench" / "results" / f"{name}--cpu.json"
    published = json.loads(results.read_text())["thresholds"]

    stated = {
        key: None if value == math.inf else value
        for key, value in dataclasses.asdict(known).items()
    }
    assert stated == published


@given(HITS, LIMITS, st.tuples(RAISES, RAISES, RAISES), st.booleans())
def test_raising_thresholds_only_makes_reuse_rarer(hits, low, raises, may_generate) -> None:
    """No threshold, raised, turns a new adapter into a reused one, or doubt into certainty."""
    high = dataclasses.replace(
        low,
        score=low.score + raises[0],
        margin=low.margin + raises[1],
        verify_score=low.verify_score + raises[2],
    )
    before = choose(hits, low, may_generate=may_generate)
    after = choose(hits, high, may_generate=may_generate)

    if may_generate:
        assert RANK[type(after)] >= RANK[type(before)]
    elif isinstance(after, Reuse):
        assert isinstance(before, Reuse)


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2))
def test_lowering_the_largest_distance_only_makes_reuse_rarer(distance, one, two) -> None:
    """What a strict comparison accepts, a lenient one accepts too."""
    low, high = (dataclasses.replace(THRESHOLDS, max_distance=d) for d in sorted((one, two)))

    assert policy.verified(distance, high) >= policy.verified(distance, low)


@given(HITS.flatmap(lambda hits: st.tuples(st.just(hits), st.permutations(hits))), LIMITS)
def test_order_of_hits_changes_nothing(orders, thresholds) -> None:
    """The same hits in any order, asked any number of times, give the same decision."""
    one, two = orders

    assert choose(one, thresholds) == choose(two, thresholds) == choose(one, thresholds)


@given(HITS, LIMITS, st.booleans())
def test_far_hits_change_nothing(hits, thresholds, may_generate) -> None:
    """What scores less than the least score may be missing: the same serves."""
    near = [hit for hit in hits if hit.score >= thresholds.least_score - 1e-9]

    all_of_them = choose(hits, thresholds, may_generate=may_generate)
    few = choose(near, thresholds, may_generate=may_generate)

    assert type(few) is type(all_of_them)
    if isinstance(few, Reuse):
        assert few.adapter_id == all_of_them.adapter_id
    if isinstance(few, Verify):
        assert few.match.adapter_id == all_of_them.match.adapter_id


def test_unmeasured_thresholds_need_no_hits() -> None:
    """Where only equal texts reuse, no score is worth looking for."""
    assert math.inf == policy.UNCALIBRATED.least_score


@given(HITS, LIMITS)
def test_contradicted_is_never_reused(hits, thresholds) -> None:
    """With a finding there is neither reuse nor comparison."""
    decision = choose(hits, thresholds)

    if decision.reasons.findings:
        assert isinstance(decision, Generate)


@given(HITS, LIMITS, st.integers(0, 6))
def test_another_tenants_adapter_is_never_chosen(hits, thresholds, at) -> None:
    """A stranger's hit is a bug of the search and stops everything, wherever it stands."""
    stranger = hit("a", 1.0, tenant="globex")

    with pytest.raises(AssertionError, match="globex"):
        choose([*hits[:at], stranger, *hits[at:]], thresholds)
    with pytest.raises(AssertionError, match="globex"):
        choose(hits, thresholds, exact=stranger.adapter)


def test_policy_needs_no_torch() -> None:
    """Deciding loads no model library and no database."""
    code = "import sys, t2l_router.policy as _; print({'torch', 'faiss'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
