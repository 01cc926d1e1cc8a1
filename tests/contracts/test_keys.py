"""Keys, limits and uses behave the same in every database."""

import datetime as dt

import pytest

from adapters_store import AdapterStore
from adapters_store.errors import InvalidInput, KeyNotFound
from adapters_store.keys import digest, key_id_of
from adapters_store.spending import RateLimit, Spent


@pytest.fixture(name="store")
def _store(library_config):
    with AdapterStore.open(library_config) as store:
        yield store


def test_create_and_list(store):
    """A new key is listed, its secret is not, and only the secret's hash is stored."""
    key, secret = store.keys.create("acme", name="ci", scopes=("admin", "chat"))

    assert store.keys.list() == [key]
    assert (key.tenant, key.name, key.scopes) == ("acme", "ci", ("chat", "admin"))
    assert key_id_of(secret) == key.id
    assert store.keys.hashes() == {key.id: (key, digest(secret))}
    assert secret not in repr(store.history()) + repr(store.keys.list())


def test_revoke(store):
    """A revoked key says since when; revoking it again changes nothing."""
    key, _ = store.keys.create("acme")

    revoked = store.keys.revoke(key.id)

    assert revoked.revoked_at is not None
    assert store.keys.revoke(key.id) == revoked
    assert [entry.action for entry in store.history(key.id)] == ["key.revoke", "key.create"]


def test_another_tenants_key(store):
    """A tenant neither sees nor revokes another's key."""
    key, _ = store.keys.create("acme")

    assert store.keys.list(tenant="rival") == []
    with pytest.raises(KeyNotFound):
        store.keys.revoke(key.id, tenant="rival")


@pytest.mark.parametrize(
    ("tenant", "options"),
    [
        ("shared", {}),
        ("A/b", {}),
        ("acme", {"scopes": ()}),
        ("acme", {"scopes": ("root",)}),
        ("acme", {"name": "x" * 65}),
        ("acme", {"name": "a\r\nb"}),
        ("acme", {"expires_at": dt.datetime(2000, 1, 1, tzinfo=dt.UTC)}),
    ],
)
def test_unsound_key(store, tenant, options):
    """A key that could not be right is refused, and nothing is stored."""
    with pytest.raises(InvalidInput):
        store.keys.create(tenant, **options)

    assert store.keys.list() == []


def test_version_changes_with_keys_and_limits(store):
    """Whoever remembers the version learns of every change."""
    seen = [store.keys.version()]
    key, _ = store.keys.create("acme")
    seen.append(store.keys.version())
    store.spending.limit("acme", RateLimit(requests_per_minute=5))
    seen.append(store.keys.version())
    store.keys.revoke(key.id)
    seen.append(store.keys.version())

    assert len(set(seen)) == 4
    assert store.spending.limits() == {"acme": RateLimit(requests_per_minute=5)}


def test_uses_add_up(store):
    """Uses of a day are added up by tenant, and keys remember when they were used."""
    key, _ = store.keys.create("acme")
    store.spending.record({"acme": Spent(1, 10, 5)}, {key.id: key.created_at})
    store.spending.record({"acme": Spent(2, 1, 1), "rival": Spent(1, 0, 0)}, {})

    assert store.spending.today() == {"acme": Spent(3, 11, 6), "rival": Spent(1, 0, 0)}
    assert [use.tenant for use in store.spending.days(7, tenant="acme")] == ["acme"]
    assert store.keys.list()[0].last_used_at == key.created_at


def test_negative_limit(store):
    """A negative limit is refused."""
    with pytest.raises(InvalidInput):
        store.spending.limit("acme", RateLimit(tokens_per_day=-1))
