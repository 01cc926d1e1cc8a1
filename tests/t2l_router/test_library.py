"""The router over a real library: what it finds, what it keeps, and when the library is away."""

import asyncio
import time
import tracemalloc

import pytest

from adapters_store.errors import StoreUnavailable
from adapters_store.quotas import Quota
from t2l_router.errors import (
    AdapterRefused,
    BudgetExceeded,
    LibraryUnavailable,
    UnknownAdapter,
)
from t2l_router.policy import Thresholds
from t2l_router.router import Caller
from tests.routers import answer, decide, echo_router, open_store, request

TASK = {"t2l_description": "Translate English sentences into French"}
NEAR = {"t2l_description": "Translate English sentences into French, please"}
COMPARE_ALL = Thresholds(score=2, margin=2, verify_score=-1, max_distance=2)


@pytest.fixture(name="routers")
async def _routers(tmp_path):
    """Makes routers over one library, and closes them."""
    made = []

    def make(**options):
        made.append(echo_router(tmp_path, **options))
        return made[-1]

    yield make
    for router in made:
        await router.close()


def calibrate(router, thresholds):
    """Have a router use thresholds as if they had been measured."""
    library = router._library
    library._thresholds["local"] = (time.monotonic(), thresholds)


async def test_adapters_survive_a_restart(tmp_path):
    """What one router wrote, the next one finds, and serves by id and description."""
    first = echo_router(tmp_path)
    made, _ = await answer(first, **TASK)
    await first.close()

    second = echo_router(tmp_path)
    by_text, text = await answer(second, **TASK)
    by_id = await decide(second, t2l_adapter=made.adapter.adapter_id[:12])
    await second.close()

    assert (made.kind, by_text.kind, by_id.kind) == ("generated", "exact", "explicit")
    assert by_text.adapter.adapter_id == by_id.adapter.adapter_id == made.adapter.adapter_id
    assert text.startswith(f"[{made.adapter.adapter_id}]")


async def test_whole_answer_means_stored_adapter(routers, tmp_path):
    """Who has read a whole answer can rely on the adapter that it names, even after a crash."""
    made, _ = await answer(routers(), **TASK)

    with open_store(tmp_path) as store:  # as another process sees it now
        assert store.get(made.adapter.adapter_id, tenant="local").description


async def test_asked_again_before_it_is_stored(routers):
    """While a new adapter is being stored, the same text finds it without the library."""
    router = routers()
    first = await router.chat(request(**TASK), Caller())
    again = await router.chat(request(**TASK), Caller())
    for asked in (first, again):
        await asked.deltas.aclose()
    await router._matcher.settle()

    assert (first.decision.kind, again.decision.kind) == ("generated", "exact")
    assert set(again.timing_ms) == {"describe", "session"}
    assert router._matcher._fresh == {}


async def test_verified_reuse_is_remembered(routers, tmp_path):
    """A text that a comparison led to a held adapter finds it at once the next time."""
    router = routers()
    made, _ = await answer(router, **TASK)
    calibrate(router, COMPARE_ALL)

    compared, _ = await answer(router, **NEAR)
    again, _ = await answer(router, **NEAR)

    assert (compared.kind, again.kind) == ("verified", "exact")
    assert compared.adapter.adapter_id == again.adapter.adapter_id == made.adapter.adapter_id
    assert 0 < compared.distance <= 2
    assert compared.score is not None
    with open_store(tmp_path) as store:
        assert len(store.descriptions(made.adapter.adapter_id, tenant="local")) == 2


async def test_comparison_may_keep_the_new_adapter(routers):
    """Too far apart, the new adapter serves, and both distance and score are told."""
    router = routers()
    made, _ = await answer(router, **TASK)
    calibrate(router, Thresholds(score=2, margin=2, verify_score=-1, max_distance=0.1))

    compared, _ = await answer(router, **NEAR)

    assert compared.kind == "generated"
    assert compared.adapter.adapter_id != made.adapter.adapter_id
    assert compared.distance > 0.1


async def test_near_reuse_generates_nothing(routers):
    """Where score and margin suffice, nothing is written but the description."""
    router = routers()
    await answer(router, **TASK)
    calibrate(router, Thresholds(score=-1, margin=-1, verify_score=-1, max_distance=0))

    assert (await answer(router, **NEAR))[0].kind == "reused"


@pytest.mark.parametrize("by", ["id", "alias"])
async def test_quarantined_adapter_is_refused(routers, by, tmp_path):
    """A quarantined adapter serves nobody: not by name, not by its description."""
    router = routers()
    made, _ = await answer(router, **TASK)
    adapter_id = made.adapter.adapter_id
    with open_store(tmp_path) as store:
        store.aliases.set("french", adapter_id, tenant="local")
        store.set_state(adapter_id, "quarantined", tenant="local")
    forget(router)

    with pytest.raises(AdapterRefused, match="quarantined"):
        await decide(router, t2l_adapter=adapter_id if by == "id" else "french")
    decision = await decide(router, **TASK)
    assert decision.kind == "base"
    assert "quarantined" in decision.reason


def forget(router):
    """As if the last check were long ago."""
    router._chooser._adapters._known.clear()


async def test_deleted_adapter_is_refused(routers, tmp_path):
    """A deleted adapter is refused by name, with the reason."""
    router = routers()
    made, _ = await answer(router, **TASK)
    with open_store(tmp_path) as store:
        store.delete(made.adapter.adapter_id, tenant="local")
    forget(router)

    with pytest.raises(AdapterRefused, match="is deleted"):
        await decide(router, model=f"t2l:{made.adapter.adapter_id}")


async def test_adapter_of_another_base_is_refused(routers, tmp_path):
    """An adapter that was made for another base model doesn't serve."""
    router = routers()
    made, _ = await answer(router, **TASK)
    with open_store(tmp_path) as store:
        files = store.files(made.adapter.adapter_id, tenant="local")
        foreign = store.add(files, tenant="local", base="f" * 64)

    with pytest.raises(AdapterRefused, match="another base model"):
        await decide(router, t2l_adapter=foreign.id)


async def test_alias(routers, tmp_path):
    """An alias names an adapter, is listed, and an unknown one is an error."""
    router = routers()
    made, _ = await answer(router, **TASK)
    with open_store(tmp_path) as store:
        store.aliases.set("french", made.adapter.adapter_id, tenant="local")

    assert (await decide(router, model="t2l:french")).adapter == made.adapter
    assert "t2l:french" in await router.models("local")
    assert await router.has_model("t2l:french", "local")
    assert not await router.has_model("t2l:french", "rival")
    with pytest.raises(UnknownAdapter, match="no adapter 'german'"):
        await decide(router, model="t2l:german")


async def test_budget(routers, tmp_path):
    """Beyond its generations an hour a tenant gets the base model, or the error if it insists."""
    router = routers()
    with open_store(tmp_path) as store:
        store.quotas.set("local", Quota(max_generations_per_hour=1))
    await answer(router, **TASK)

    decision, _ = await answer(router, **NEAR)

    assert decision.kind == "base"
    assert "generations per hour" in decision.reason
    with pytest.raises(BudgetExceeded):
        await decide(router, **NEAR, t2l_required=True)
    assert (await decide(router, Caller("rival"), **NEAR)).kind == "generated"


async def test_default_budget(routers):
    """A tenant without a quota has the one of the settings."""
    router = routers(generations_per_hour=1)
    await answer(router, **TASK)

    assert (await decide(router, **NEAR)).kind == "base"


class BrokenStore:
    """A library whose calls fail while it is away."""

    def __init__(self, store):
        self.store = store
        self.away = False

    def __getattr__(self, name):
        if self.away:
            raise StoreUnavailable("the database server can't be reached")
        return getattr(self.store, name)


async def test_library_away_and_back(tmp_path):
    """While the library is away chats are answered, with the reason; then all is as before."""
    broken = BrokenStore(open_store(tmp_path))
    router = echo_router(tmp_path, store=broken)
    made, _ = await answer(router, **TASK)
    broken.away = True

    fresh, text = await answer(router, **NEAR)
    named, _ = await answer(router, t2l_adapter="french")
    known, _ = await answer(router, t2l_adapter=made.adapter.adapter_id)
    with pytest.raises(LibraryUnavailable):
        await decide(router, t2l_adapter="french", t2l_required=True)
    assert await router.models("local") == ["org/base", "t2l:base"]

    assert fresh.kind == "generated"
    assert "not kept" in fresh.reason
    assert "database server" not in fresh.reason  # how it fails is the log's business
    assert text.startswith(f"[{fresh.adapter.adapter_id}]")
    assert (named.kind, known.kind) == ("base", "explicit")

    broken.away = False
    await asyncio.sleep(1.1)  # the pause after a failure
    assert (await answer(router, **TASK))[0].kind == "exact"
    assert (await answer(router, **NEAR))[0].kind == "generated"
    await router.close()
    with open_store(tmp_path) as store:
        kinds = [entry.kind for entry in store.decisions.newest()]
    assert kinds.count("generated") == 3  # those taken meanwhile are logged as well


async def test_adapter_is_stored_once_the_library_is_back(tmp_path):
    """An adapter whose write found the library away is stored by a later try."""
    broken = BrokenStore(open_store(tmp_path))
    router = echo_router(tmp_path, store=broken)
    found = await router.chat(request(**TASK), Caller())  # decided, and its write begun
    broken.away = True
    await asyncio.sleep(0.1)
    broken.away = False
    await router.close()  # which waits for writes

    with open_store(tmp_path) as store:
        assert store.get(found.decision.adapter.adapter_id, tenant="local").description
        assert store.leases.sweep() == 0
    await found.deltas.aclose()


async def test_store_that_hangs(tmp_path):
    """A database that doesn't answer costs the first request its patience, the others nothing."""

    class Hanging(BrokenStore):
        n_asked = 0

        def __getattr__(self, name):
            if self.away:
                self.n_asked += 1
                time.sleep(0.5)
            return getattr(self.store, name)

    hanging = Hanging(open_store(tmp_path))
    router = echo_router(tmp_path, store=hanging)
    router._library.calls._timeout_s = 0.1
    hanging.away = True

    first, _ = await answer(router, **TASK)
    n_asked = hanging.n_asked
    second, _ = await answer(router, **NEAR)

    assert "not kept" in first.reason
    assert second.kind == "generated"
    assert hanging.n_asked == n_asked
    hanging.away = False
    await router.close()


async def test_memory_is_bounded(routers):
    """Tensors in memory stay within their bound; what was dropped is loaded again."""
    router = routers()
    adapters = router._chooser._adapters
    adapters._max_bytes = 8_000
    first, _ = await answer(router, **TASK)
    for i in range(10):
        await answer(router, t2l_description=f"Task number {i}")

    assert adapters.n_bytes <= 8_000
    assert (await answer(router, **TASK))[0].adapter.adapter_id == first.adapter.adapter_id


@pytest.mark.slow
async def test_many_descriptions_of_one_client(routers):
    """10,000 different descriptions leave bounded work and memory behind."""
    router = routers(max_generating=8, generations_per_hour=20)
    kinds: dict[str, int] = {}
    for start in range(0, 10_000, 500):
        if start == 5_000:
            tracemalloc.start()  # what comes from now on must not pile up
        decisions = await asyncio.gather(
            *(decide(router, t2l_description=f"Task {start + i}") for i in range(500))
        )
        for decision in decisions:
            kinds[decision.kind] = kinds.get(decision.kind, 0) + 1
    await router._behind.flush()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert left < 4 << 20
    assert set(kinds) <= {"generated", "base"}
    assert 1 <= kinds["generated"] <= 40  # what was begun before the quota was full may overshoot
    assert len(router._matcher._flights) == 0
    assert len(router._chooser._adapters._known) <= 40
    assert len(router._behind._decisions) <= 10_000


async def test_library_of_another_encoder(tmp_path):
    """A library indexed by another encoder is no 500: the reason says what to do."""
    router = echo_router(tmp_path)
    await answer(router, **TASK)
    await router.close()

    class OtherEncoder(type(router._matcher.maker._encoder)):
        fingerprint = "other"

    other = echo_router(tmp_path, encoder=OtherEncoder())
    decision, _ = await answer(other, **NEAR)
    await other.close()

    assert decision.kind == "generated"
    assert "t2l index migrate" in decision.reason
