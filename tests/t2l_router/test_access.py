import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from adapters_store import AdapterStore, StoreConfig
from adapters_store.errors import StoreUnavailable
from adapters_store.spending import RateLimit, Spent
from t2l_router.access import GRACE_S, REFRESH_S, Access, Principal
from t2l_router.errors import (
    AccessUnavailable,
    BudgetSpent,
    InvalidKey,
    KeyLacksScope,
    RateLimited,
)


class Clock:
    """A clock that goes when told."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Flaky:
    """A part of the store that can go away, and counts how often it is asked."""

    def __init__(self, part):
        self.part = part
        self.is_away = False
        self.calls = 0

    def __getattr__(self, name):
        def call(*args):
            self.calls += 1
            if self.is_away:
                raise StoreUnavailable("gone")
            return getattr(self.part, name)(*args)

        return call


@pytest.fixture(name="store")
def _store(tmp_path):
    with AdapterStore.open(StoreConfig.in_directory(tmp_path, index="exact")) as store:
        yield store


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="access")
def _access(store, clock):
    return Access(Flaky(store.keys), Flaky(store.spending), clock=clock)


async def test_without_keys(access):
    """Where there are no keys, everybody is the tenant local."""
    assert await access.principal(None, "admin") == Principal("local")
    assert await access.principal("Bearer anything", "chat") == Principal("local")


async def test_closed_without_keys(store):
    """A closed door stays closed, even where there is no key."""
    with pytest.raises(InvalidKey):
        await Access(store.keys, store.spending, closed=True).principal(None, "chat")


async def test_key(access, store):
    """The key says whose tenant it is."""
    key, secret = store.keys.create("acme")

    assert await access.principal(f"Bearer {secret}", "chat") == Principal(
        "acme", ("chat",), key.id
    )
    assert (await access.principal(f"bearer  {secret} ", "chat")).tenant == "acme"


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer x\ud800"])
async def test_no_key(access, store, given):
    """Whatever is no key is refused."""
    store.keys.create("acme")
    with pytest.raises(InvalidKey):
        await access.principal(given, "chat")


async def test_wrong_secret(access, store):
    """Neither another key's id nor a changed secret opens anything, and both read the same."""
    key, secret = store.keys.create("acme")
    said = set()
    for wrong in (secret[:-1] + ("a" if secret[-1] != "a" else "b"), f"t2l_{'0' * 12}_{'a' * 43}"):
        with pytest.raises(InvalidKey) as caught:
            await access.principal(f"Bearer {wrong}", "chat")
        said.add(str(caught.value))

    assert len(said) == 1
    assert key.id not in said.pop()


async def test_scope(access, store):
    """A chat key runs no library."""
    _, secret = store.keys.create("acme")
    with pytest.raises(KeyLacksScope, match=r"it has chat; one that does: .* --scope admin"):
        await access.principal(f"Bearer {secret}", "admin")


async def test_new_key_works_at_once(access, store, clock):
    """A key made after the last look at the database opens the door nevertheless."""
    store.keys.create("acme")
    with pytest.raises(InvalidKey):
        await access.principal(None, "chat")
    _, secret = store.keys.create("rival")
    clock.now += 0.3

    assert (await access.principal(f"Bearer {secret}", "chat")).tenant == "rival"


async def test_strangers_cost_few_questions(access, store, clock):
    """A thousand unknown keys don't become a thousand questions to the database."""
    store.keys.create("acme")
    for number in range(1_000):
        with pytest.raises(InvalidKey):
            await access.principal(f"Bearer t2l_{number:012x}_{'a' * 43}", "chat")

    assert access._keys.calls < 10


async def test_revoked(access, store, clock):
    """A revoked key opens nothing after `REFRESH_S`."""
    key, secret = store.keys.create("acme")
    await access.principal(f"Bearer {secret}", "chat")

    store.keys.revoke(key.id)
    clock.now += REFRESH_S

    with pytest.raises(InvalidKey, match="revoked"):
        await access.principal(f"Bearer {secret}", "chat")


async def test_last_key_revoked(access, store, clock):
    """Revoking the last key doesn't open the door to everybody."""
    key, _ = store.keys.create("acme")
    store.keys.revoke(key.id)

    with pytest.raises(InvalidKey):
        await access.principal(None, "chat")


async def test_expired(access, store):
    """A key opens nothing after its time."""
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    _, secret = store.keys.create("acme", expires_at=soon)
    await access.principal(f"Bearer {secret}", "chat")
    await asyncio.sleep(0.25)

    with pytest.raises(InvalidKey, match="expired"):
        await access.principal(f"Bearer {secret}", "chat")


async def test_database_away(access, store, clock):
    """Known keys outlive a short absence of the database, not a long one, and come back with it."""
    _, secret = store.keys.create("acme")
    await access.principal(f"Bearer {secret}", "chat")
    access._keys.is_away = True

    clock.now += GRACE_S - 1
    assert (await access.principal(f"Bearer {secret}", "chat")).tenant == "acme"
    clock.now += 2
    with pytest.raises(AccessUnavailable):
        await access.principal(f"Bearer {secret}", "chat")
    access._keys.is_away = False
    clock.now += REFRESH_S
    assert (await access.principal(f"Bearer {secret}", "chat")).tenant == "acme"


async def test_side_by_side(access, store):
    """Requests that come together ask the database once."""
    _, secret = store.keys.create("acme")

    found = await asyncio.gather(
        *(access.principal(f"Bearer {secret}", "chat") for _ in range(100))
    )

    assert {principal.tenant for principal in found} == {"acme"}
    assert access._keys.calls == 2  # version and keys


async def test_limits(access, store):
    """A tenant's own limit wins over the default; others have the default."""
    store.spending.limit("acme", RateLimit(requests_per_minute=2))
    access.use_defaults(RateLimit(requests_per_minute=1))
    await access.principal(None, "chat")

    for tenant, allowed in (("acme", 2), ("rival", 1)):
        for _ in range(allowed):
            access.admit(tenant)
        with pytest.raises(RateLimited) as caught:
            access.admit(tenant)
        assert 1 <= caught.value.retry_after_s <= 60
        assert ("x-ratelimit-remaining-requests", "0") in caught.value.headers


async def test_budget_over_processes(store):
    """The tokens of a day are counted over all processes."""
    limit = RateLimit(tokens_per_day=100)
    one = Access(store.keys, store.spending, defaults=limit)
    two = Access(store.keys, store.spending, defaults=limit)
    one.admit("acme")
    one.spend("acme", 60, 50)
    with pytest.raises(BudgetSpent):
        one.admit("acme")
    two.admit("acme")

    await one.save()
    await two.save()

    with pytest.raises(BudgetSpent):
        two.admit("acme")
    assert store.spending.today() == {"acme": Spent(2, 60, 50)}


async def test_uses_survive_a_fault(access, store):
    """What could not be saved is saved later, once."""
    access.admit("acme")
    access.spend("acme", 3, 4)
    access._spending.is_away = True
    await access.save()
    access._spending.is_away = False
    await access.save()
    await access.save()

    assert store.spending.today() == {"acme": Spent(1, 3, 4)}
