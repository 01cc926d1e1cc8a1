"""What every library promises, whatever database, index and filesystem it stands on."""

from functools import partial

import numpy as np
import pytest

from adapters_store import AdapterStore
from adapters_store.errors import (
    AdapterNotFound,
    AdapterPinned,
    AliasTaken,
    Conflict,
    DimensionMismatch,
    EncoderMismatch,
    InvalidInput,
    InvalidName,
    NotFound,
    QuotaExceeded,
)
from adapters_store.quotas import Quota
from tests.adapter_files import BASE, DIM, ENCODER, make_embedding, make_files, make_task


@pytest.fixture(name="store")
def _store(library_config):
    with AdapterStore.open(library_config) as store:
        yield store


def add(store, seed=0, *, tenant="acme", **task):
    """Add the adapter of a seed with its task."""
    return store.add(make_files(seed), tenant=tenant, base=BASE, task=make_task(seed, **task))


def search(store, seed=0, *, tenant="acme", k=5, base=BASE, encoder=ENCODER):
    """The ids found for the embedding of a seed."""
    hits = store.search(make_embedding(seed), tenant=tenant, base=base, encoder=encoder, k=k)
    return [hit.adapter.id for hit in hits]


def test_added_is_found(store):
    """An added adapter can be got, read back byte for byte, and found by its task."""
    record = add(store, 1, text="Translate to French")

    assert record == store.get(record.id, tenant="acme")
    assert make_files(1).weights == store.files(record.id, tenant="acme").weights
    assert [record.id] == search(store, 1)
    assert record.description == "Translate to French"
    assert store.directory(record.id, tenant="acme").is_dir()


def test_hit_scores_exactly(store):
    """A hit's score is the exact cosine, and names the text that it belongs to."""
    add(store, 1, text="One")
    add(store, 2, text="Two")
    query = make_embedding(3)

    hits = store.search(query, tenant="acme", base=BASE, encoder=ENCODER)

    expected = sorted((float(make_embedding(seed) @ query) for seed in (1, 2)), reverse=True)
    assert expected == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert {"One", "Two"} == {hit.description for hit in hits}


def test_add_twice(store):
    """Adding the same adapter again returns it and stores nothing new."""
    first = add(store)

    assert first == add(store)
    assert len(store.page()) == 1
    assert len(store.descriptions(first.id, tenant="acme")) == 1


def test_second_description(store):
    """An adapter keeps every text that reached it and is found by each, once."""
    record = add(store, 1)

    store.add_description(record.id, make_task(2, "Another text"), tenant="acme")

    assert [record.id] == search(store, 2)
    assert store.get(record.id, tenant="acme").n_descriptions == 2


def test_tenants_are_separate(store):
    """Another tenant neither finds, gets, nor changes an adapter."""
    record = add(store, 1, tenant="acme")

    assert search(store, 1, tenant="rival") == []
    for act in (store.get, store.delete, store.files, store.pin):
        with pytest.raises(AdapterNotFound):
            act(record.id, tenant="rival")
    assert store.page(tenant="rival") == []


def test_two_tenants_same_content(store):
    """Two tenants may hold the same content: removing one's leaves the other's."""
    mine, theirs = add(store, 1, tenant="acme"), add(store, 1, tenant="rival")
    assert mine.id == theirs.id

    store.delete(mine.id, tenant="acme")

    assert search(store, 1, tenant="acme") == []
    assert [mine.id] == search(store, 1, tenant="rival")


def test_promote(store):
    """A promoted adapter is found by every tenant, and by its owner once."""
    record = add(store, 1)

    shared = store.promote(record.id, tenant="acme")

    assert (shared.tenant, shared.state) == ("shared", "approved")
    assert shared == store.promote(record.id, tenant="acme")
    assert [record.id] == search(store, 1, tenant="rival")
    assert [record.id] == search(store, 1, tenant="acme")
    assert (
        store.search(make_embedding(1), tenant="acme", base=BASE, encoder=ENCODER)[0].adapter.tenant
        == "acme"
    )


def test_quarantine(store):
    """A quarantined adapter is never found, nor promoted, and comes back when approved."""
    record = add(store, 1)

    store.set_state(record.id, "quarantined", tenant="acme")

    assert search(store, 1) == []
    assert None is store.exact(
        "Answer question number 1", tenant="acme", base=BASE, encoder=ENCODER
    )
    with pytest.raises(Conflict):
        store.promote(record.id, tenant="acme")
    store.set_state(record.id, "approved", tenant="acme")
    assert [record.id] == search(store, 1)


def test_delete_and_undelete(store):
    """A deleted adapter is gone for everyone; undelete brings it back as it was."""
    record = add(store, 1)
    store.set_state(record.id, "approved", tenant="acme")

    store.delete(record.id, tenant="acme")

    assert search(store, 1) == []
    with pytest.raises(AdapterNotFound):
        store.get(record.id, tenant="acme")
    back = store.undelete(record.id, tenant="acme")
    assert back.state == "approved"
    assert [record.id] == search(store, 1)


def test_add_revives(store):
    """Adding a deleted adapter again brings it back."""
    record = add(store, 1)
    store.delete(record.id, tenant="acme")

    add(store, 1)

    assert [record.id] == search(store, 1)


def test_pinned_stays(store):
    """A pinned adapter can't be deleted until it is unpinned."""
    record = add(store)
    store.pin(record.id, tenant="acme")

    with pytest.raises(AdapterPinned):
        store.delete(record.id, tenant="acme")
    store.pin(record.id, tenant="acme", pinned=False)
    store.delete(record.id, tenant="acme")


def test_deleted_neighbours_hide_nothing(store):
    """However many nearer adapters are deleted, the living one behind them is found."""
    for seed in range(60):
        record = add(store, seed)
        if seed != 33:
            store.delete(record.id, tenant="acme")
        else:
            living = record.id

    assert [living] == search(store, 0, k=2)


def test_many_descriptions_of_one(store):
    """An adapter with many near descriptions doesn't crowd out the next one."""
    crowd = add(store, 0)
    for i in range(40):
        task = make_task(0, f"Variant {i}")
        store.add_description(crowd.id, task, tenant="acme")
    other = add(store, 1)

    assert [crowd.id, other.id] == search(store, 0, k=2)


def test_search_agrees_with_numpy(store):
    """The nearest ten are those of a plain comparison with everything."""
    ids = [add(store, seed).id for seed in range(50)]
    vectors = np.stack([make_embedding(seed) for seed in range(50)])

    expected = [ids[i] for i in np.argsort(-(vectors @ make_embedding(99)))[:10]]

    assert expected == search(store, 99, k=10)


def test_base_and_encoder_are_keys(store):
    """Nothing is found for another base model, and another encoder is refused."""
    add(store, 1)

    assert search(store, 1, base="x" * 64) == []
    with pytest.raises(EncoderMismatch):
        search(store, 1, encoder="y" * 64)


@pytest.mark.parametrize(
    "embedding",
    [
        make_embedding(0, DIM + 1),
        2 * make_embedding(0),
        np.full(DIM, np.nan, np.float32),
        np.eye(DIM),
    ],
    ids=["size", "norm", "nan", "matrix"],
)
def test_unsound_embedding(store, embedding):
    """An embedding of wrong size, norm or form is refused."""
    add(store, 1)

    with pytest.raises(DimensionMismatch):
        store.search(embedding, tenant="acme", base=BASE, encoder=ENCODER)


def test_exact(store):
    """A text is recognised whatever its case and spacing, and nothing else is."""
    record = add(store, 1, text="Summarise the  Email")

    keys = {"tenant": "acme", "base": BASE, "encoder": ENCODER}
    assert record.id == store.exact(" summarise THE email\n", **keys).id
    assert None is store.exact("Summarise the emails", **keys)
    assert None is store.exact("summarise the email", **keys | {"tenant": "rival"})


def test_aliases_move_and_remember(store):
    """An alias resolves, moves only when told to, and its past is known."""
    one, two = add(store, 1), add(store, 2)
    first = store.aliases.set("mailer", one.id, tenant="acme")

    assert one.id == store.get("mailer", tenant="acme").id
    assert first == store.aliases.set("mailer", one.id, tenant="acme")
    with pytest.raises(AliasTaken):
        store.aliases.set("mailer", two.id, tenant="acme")
    moved = store.aliases.set("mailer", two.id, tenant="acme", move=True)
    assert two.id == store.get("mailer", tenant="acme").id
    assert one.id == store.aliases.at("mailer", first.since, tenant="acme").adapter_id
    assert two.id == store.aliases.at("mailer", moved.since, tenant="acme").adapter_id
    with pytest.raises(AdapterNotFound):
        store.get("mailer", tenant="rival")


def test_delete_ends_aliases(store):
    """Deleting an adapter says which aliases end with it."""
    record = add(store)
    store.aliases.set("b", record.id, tenant="acme")
    store.aliases.set("a", record.id, tenant="acme")

    assert store.delete(record.id, tenant="acme") == ["a", "b"]
    assert store.aliases.current(tenant="acme") == []


def test_prefix(store):
    """The start of an id names the adapter, as long as it fits one only."""
    record = add(store)

    assert record.id == store.get(record.id[:10], tenant="acme").id
    with pytest.raises(AdapterNotFound):
        store.get("t2l-", tenant="acme")


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "A", "a\n", "a" * 65, ".hidden", "a..b", "t2l-1"]
)
def test_bad_alias_names(store, name):
    """Names that could be a path, a header or an id are refused."""
    record = add(store)

    with pytest.raises(InvalidName):
        store.aliases.set(name, record.id, tenant="acme")


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_texts_that_no_database_takes(store, text):
    """They are the caller's fault, not the library's, which would else be taken for broken."""
    for ask in (store.get, store.aliases.get, partial(store.decisions.rate, rating=1)):
        with pytest.raises((InvalidInput, NotFound)):
            ask(text, tenant="acme")


def test_tags_and_filters(store):
    """Pages are filtered by every key of the grammar; of one key any may hold."""
    one, two = add(store, 1), add(store, 2, tenant="rival")
    store.tag(one.id, tenant="acme", add=["mail", "beta"])
    store.record_uses({one.id: 3}, tenant="acme")
    store.set_state(two.id, "approved", tenant="rival")

    def ids(*expressions):
        return [record.id for record in store.page(expressions)]

    assert [two.id, one.id] == ids()
    assert [one.id] == ids("tag=mail") == ids("hits>2") == ids("tenant=acme")
    assert [two.id] == ids("hits<3") == ids("state=approved")
    assert [two.id, one.id] == ids("tenant=acme", "tenant=rival", "size>1b", "created<1h")
    assert [] == ids("size>1MB") == ids("accessed>1d") == ids("state=deleted")
    assert store.get(one.id, tenant="acme").tags == ("beta", "mail")


def test_pages(store):
    """Following the key of the last adapter visits each exactly once, newest first."""
    ids = [add(store, seed).id for seed in range(7)]

    seen, after = [], None
    while page := store.page(limit=3, after=after):
        seen += [record.id for record in page]
        after = page[-1].key

    assert ids[::-1] == seen


def test_quota(store):
    """A full quota refuses the next adapter and leaves the library as it was."""
    first = add(store, 1)
    store.quotas.set("acme", Quota(max_adapters=1))

    with pytest.raises(QuotaExceeded):
        add(store, 2)
    assert [first.id] == [record.id for record in store.page()]
    assert first.id == add(store, 1).id
    store.quotas.set("acme", Quota(max_generations_per_hour=1))
    with pytest.raises(QuotaExceeded):
        add(store, 2)
    store.quotas.set("acme", Quota(max_bytes=2 * first.size_bytes))
    add(store, 2)


def test_two_handles(library_config, store):
    """What one handle adds or deletes, another one of the same library sees at once."""
    with AdapterStore.open(library_config) as other:
        record = add(store, 1)
        assert [record.id] == search(other, 1)
        other.delete(record.id, tenant="acme")
        assert search(store, 1) == []


def test_history(store):
    """Every change is in the history, with its actor, newest first."""
    record = add(store)
    store.acting_as("ann").pin(record.id, tenant="acme")

    entries = store.history(record.id)

    assert [(e.action, e.actor) for e in entries] == [("pin", "ann"), ("add.generated", "t2l")]
