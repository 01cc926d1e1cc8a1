"""What routers share, on every kind of library: sessions, decisions, feedback, thresholds, gate."""

from datetime import timedelta

import pytest

from adapters_store import AdapterStore, Lineage
from adapters_store.calibrations import Calibration
from adapters_store.decisions import DecisionEntry, wilson
from adapters_store.errors import DecisionNotFound, QuotaExceeded
from adapters_store.gate import LEAST_POPULATION, judge
from adapters_store.quotas import Quota, generations
from adapters_store.sessions import SessionRow
from adapters_store.traffic import Batch, Retention
from tests.adapter_files import BASE, make_config, make_files, make_task

DAY = timedelta(days=1)
NO_TIME = timedelta(0)


@pytest.fixture(name="store")
def _store(library_config):
    with AdapterStore.open(library_config) as store:
        yield store


def test_session(store):
    """A session is its tenant's, is replaced, ends by being idle, and can be forgotten."""
    store.sessions.put({"k": SessionRow("acme", None, "{}")})
    store.sessions.put({"k": SessionRow("acme", "t2l-1", '{"a": 1}')})

    assert store.sessions.get("k", tenant="acme", idle=DAY).state == '{"a": 1}'
    assert store.sessions.get("k", tenant="rival", idle=DAY) is None
    assert store.sessions.get("k", tenant="acme", idle=NO_TIME) is None
    store.sessions.put({"k": None})
    assert store.sessions.get("k", tenant="acme", idle=DAY) is None


def test_session_sweep(store):
    """Idle rows go, and all but the newest."""
    for i in range(5):
        store.sessions.put({f"k{i}": SessionRow("acme", None, "{}")})

    assert store.sessions.sweep(idle=DAY, keep=2) == 3
    assert store.sessions.get("k4", tenant="acme", idle=DAY)
    assert store.sessions.get("k2", tenant="acme", idle=DAY) is None
    assert store.sessions.sweep(idle=NO_TIME, keep=10) == 2


def test_decisions(store):
    """Decisions come back as they were logged, newest first, to their tenant."""
    entries = [DecisionEntry(f"d{i}", "acme", "exact", score=0.5, detail={"i": i}) for i in "ab"]
    store.decisions.append(entries[:1])
    store.decisions.append(entries[1:])

    assert [entry.trace for entry in store.decisions.newest(tenant="acme")] == ["db", "da"]
    assert store.decisions.newest(tenant="rival") == []
    assert store.decisions.get("da", tenant="acme").detail == {"i": "a"}
    with pytest.raises(DecisionNotFound):
        store.decisions.get("da", tenant="rival")


def test_decision_by_the_beginning_of_its_name(store):
    """Eight characters name a decision where only one begins so, and only the tenant's own."""
    traces = ("0123456789", "01234567xx", "89abcdef01")
    store.decisions.append([DecisionEntry(trace, "acme", "base") for trace in traces])

    assert store.decisions.get("89abcdef", tenant="acme").trace == "89abcdef01"
    for cut, tenant in (("89abcde", "acme"), ("01234567", "acme"), ("89abcdef", "rival")):
        with pytest.raises(DecisionNotFound):
            store.decisions.get(cut, tenant=tenant)
    with pytest.raises(DecisionNotFound):
        store.decisions.rate("89abcdef", 1, tenant="acme")


def test_feedback(store):
    """Ratings join decisions, replace each other, and outlive the log."""
    store.decisions.append(
        [DecisionEntry(f"d{i}", "acme", "exact", adapter_id="t2l-1") for i in range(4)]
    )
    for i, rating in enumerate((1, 1, -1, 0)):
        store.decisions.rate(f"d{i}", rating, tenant="acme")
    store.decisions.rate("d0", -1, tenant="acme")
    with pytest.raises(DecisionNotFound):
        store.decisions.rate("d0", 1, tenant="rival")
    store.decisions.sweep(keep=NO_TIME, rows=100)

    stats = store.decisions.stats(tenant="acme")

    (rate,) = stats.win_rates
    assert (rate.adapter_id, rate.wins, rate.n) == ("t2l-1", 1, 3)
    assert (rate.low, rate.high) == wilson(1, 3)
    assert stats.total == 0
    assert store.decisions.stats(tenant="rival").win_rates == ()


def test_wilson():
    """The interval's published values."""
    assert wilson(0, 0) == (0, 1)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_batch(store):
    """A batch is written as one, and swept by its retention."""
    record = store.add(make_files(1), tenant="acme", base=BASE, task=make_task(1))
    store.traffic.record(
        Batch(
            {"k": SessionRow("acme", record.id, "{}")},
            (DecisionEntry("d", "acme", "exact"),),
            {"acme": {record.id: 3}},
        )
    )

    assert store.get(record.id, tenant="acme").hits == 3
    assert store.traffic.sweep(Retention(NO_TIME, 10, NO_TIME, 10)) == 2


def test_calibration(store):
    """A tenant's thresholds win over everybody's; other pairs have none."""
    common = Calibration("e", "h", None, None, 0.4, 0.3, "measured")
    own = Calibration("e", "h", 0.9, 0.1, 0.5, 0.2, "measured", tenant="acme")
    store.calibrations.set(common)
    store.calibrations.set(own)
    store.calibrations.set(own)

    assert store.calibrations.get("e", "h", tenant="acme") == own
    assert store.calibrations.get("e", "h", tenant="rival") == common
    assert store.calibrations.get("e", "other", tenant="acme") is None


def reserve(store, number, tenant="acme", budget=1):
    """Try to get the lease on a generation."""
    return store.quotas.reserve_generation(
        f"{generations(tenant)}{number}",
        f"router {number}",
        ttl=DAY,
        tenant=tenant,
        default=Quota(max_generations_per_hour=budget),
    )


def test_generation_budget(store):
    """The default counts for tenants without limits of their own."""
    lineage = Lineage(hypernet_id="h")
    store.add(make_files(1), tenant="acme", base=BASE, lineage=lineage)

    with pytest.raises(QuotaExceeded):
        reserve(store, 1)
    assert reserve(store, 1, "rival")
    store.quotas.set("acme", Quota(max_generations_per_hour=5))
    assert reserve(store, 1)


def test_generations_under_way_count(store):
    """What is being written counts as well; what is refused holds no lease."""
    assert reserve(store, 1, budget=2)
    assert reserve(store, 2, budget=2)
    with pytest.raises(QuotaExceeded):
        reserve(store, 3, budget=2)

    assert store.leases.holder(f"{generations('acme')}3") is None
    store.leases.release(f"{generations('acme')}1", "router 1")
    assert reserve(store, 3, budget=2)


def test_one_generation_one_lease(store):
    """Two routers can't both write the same adapter."""
    assert reserve(store, 1, budget=9)
    lease = f"{generations('acme')}1"

    assert not store.quotas.reserve_generation(lease, "another", ttl=DAY, tenant="acme")
    assert store.leases.holder(lease) == "router 1"


def test_gate_quarantines_odd_adapters(store):
    """An adapter far larger than its hypernetwork's others is quarantined, with the evidence."""
    lineage = Lineage(hypernet_id="h")
    for seed in range(LEAST_POPULATION):
        store.add(make_files(seed), tenant="acme", base=BASE, lineage=lineage)
    strong = make_config(lora_alpha=4_000)
    normal = store.add(make_files(1000), tenant="acme", base=BASE, lineage=lineage)
    odd = store.add(make_files(1001, config=strong), tenant="acme", base=BASE, lineage=lineage)
    imported = store.add(
        make_files(1002, config=strong), tenant="acme", base=BASE, lineage=Lineage("imported")
    )

    assert (normal.state, odd.state, imported.state) == ("generated", "quarantined", "generated")
    (entry, *_) = store.history(odd.id)
    assert entry.action == "quarantine"
    assert entry.detail["delta_norm"] > entry.detail["median"]
    assert entry.detail["population"] == LEAST_POPULATION + 1


def test_gate_needs_a_population():
    """Few adapters prove nothing; a dead one is odd among many."""
    assert judge(1e9, [1.0] * (LEAST_POPULATION - 1)) is None
    assert judge(1.1, [1.0] * LEAST_POPULATION) is None
    assert judge(0.0, [1.0] * LEAST_POPULATION).deviations == 1e6


def test_batch_written_twice(store):
    """A batch whose writer gave up waiting may come again: each decision is logged once."""
    batch = Batch({"k": SessionRow("acme", None, "{}")}, (DecisionEntry("d", "acme", "exact"),))
    store.traffic.record(batch)
    store.traffic.record(batch)

    assert [entry.trace for entry in store.decisions.newest()] == ["d"]


def test_expired_leases_are_swept(store):
    """A lease whose holder died doesn't stay for ever; one that is held does."""
    store.leases.acquire("dead", "a", ttl=NO_TIME)
    store.leases.acquire("held", "a", ttl=DAY)

    assert store.leases.sweep() == 1
    assert store.leases.holder("held") == "a"
