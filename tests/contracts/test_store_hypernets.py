"""Which adapters a text leads to when several hypernetworks write into one library."""

import math

import pytest

from adapters_store import AdapterStore, Lineage
from adapters_store.maintenance import PrunePolicy
from adapters_store.records import EXAMPLES, Task
from tests.adapter_files import BASE, ENCODER, make_config, make_embedding, make_files, make_task

TEXT = "Answer question number 1"
OLD, NEW = Lineage(hypernet_id="old"), Lineage(hypernet_id="new")
SCOPE = {"tenant": "acme", "base": BASE, "encoder": ENCODER}


@pytest.fixture(name="store")
def _store(library_config):
    with AdapterStore.open(library_config) as store:
        yield store


def add(store, seed, lineage, *, text=TEXT, near=1, **config):
    """Add the adapter of a seed for a text."""
    files = make_files(seed, config=make_config(**config))
    task = make_task(near, text)
    return store.add(files, tenant="acme", base=BASE, task=task, lineage=lineage).id


def led_to(store, hypernet_id, text=TEXT):
    """The adapter that a text leads to where a hypernetwork writes, the same by likeness."""
    record = store.exact(text, hypernet_id=hypernet_id, **SCOPE)
    return None if record is None else record.id


def near(store, hypernet_id, k=5):
    """The adapters found by likeness where a hypernetwork writes."""
    hits = store.search(make_embedding(1), hypernet_id=hypernet_id, k=k, **SCOPE)
    return [hit.adapter.id for hit in hits]


def test_texts_lead_to_the_hypernetwork_that_asks(store):
    """What another hypernetwork wrote is found by name only, until this one has written too."""
    old = add(store, 1, OLD)

    assert (led_to(store, "old"), led_to(store, "new")) == (old, None)
    assert (near(store, "old"), near(store, "new")) == ([old], [])
    assert store.get(old[:12], tenant="acme").id == old

    new = add(store, 2, NEW)
    assert (led_to(store, "old"), led_to(store, "new")) == (old, new)
    assert (near(store, "old"), near(store, "new")) == ([old], [new])
    assert near(store, None) == [old, new]
    assert led_to(store, None) == new


@pytest.mark.parametrize(("at_least", "n_looks"), [(-1.0, 2), (0.9, 1), (math.inf, 1)])
def test_others_are_stepped_over_while_it_matters(store, at_least, n_looks):
    """A search looks past another hypernetwork's adapters, but not for what is too far away."""
    # The first look of a search for one adapter takes eight candidates.
    near_by = [add(store, seed, OLD, text=f"{TEXT}, {seed}") for seed in range(1, 5)]
    for seed in range(5, 15):
        add(store, seed, OLD, text=f"Other {seed}", near=seed)
    looks = []
    look = store.index.search
    store.index.search = lambda *args: looks.append(args) or look(*args)

    query = {"embedding": make_embedding(1), "k": 1, **SCOPE}
    assert store.search(hypernet_id="new", at_least=at_least, **query) == []

    assert len(looks) == n_looks
    (found,) = store.search(hypernet_id="old", at_least=at_least, **query)
    assert found.adapter.id in near_by


def test_adapters_behind_others_are_found(store):
    """Nearer ones of another hypernetwork hide nothing that is near enough."""
    for seed in range(1, 12):
        add(store, seed, OLD, text=f"{TEXT}, {seed}")
    own = add(store, 20, NEW, text=f"{TEXT} in full")

    query = {"embedding": make_embedding(1), "k": 1, **SCOPE}
    (found,) = store.search(hypernet_id="new", at_least=0.99, **query)

    assert found.adapter.id == own


def test_examples_lead_to_the_hypernetwork_that_asks(store):
    """What examples name is another hypernetwork's as well."""
    task = Task("loud [1 example, 0f]", None, ENCODER, EXAMPLES)
    made = store.add(make_files(1), tenant="acme", base=BASE, task=task, lineage=OLD)

    assert led_to(store, "old", task.text) == made.id
    assert led_to(store, "new", task.text) is None


CHOICES = {
    "pinned": lambda store, ref: store.pin(ref, tenant="acme"),
    "named": lambda store, ref: store.aliases.set("mail", ref, tenant="acme"),
    "approved": lambda store, ref: store.set_state(ref, "approved", tenant="acme"),
    "promoted": lambda store, ref: store.promote(ref, tenant="acme"),
    "imported": lambda store, ref: store.add(
        store.files(ref, tenant="acme"), tenant="acme", base=BASE, lineage=Lineage("imported", "x")
    ),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_chosen_adapters_are_everybodys(store, choose):
    """An adapter that somebody chose serves its texts, whatever hypernetwork wrote it."""
    old = add(store, 1, OLD)
    choose(store, old)

    assert led_to(store, "new") == old
    assert near(store, "new") == [old]


@pytest.mark.parametrize("choose", [CHOICES["pinned"], CHOICES["named"], CHOICES["approved"]])
def test_choice_counts_before_age(store, choose):
    """Who chooses the older adapter of a text gets it, also where a newer one is."""
    old, new = add(store, 1, OLD), add(store, 2, NEW)
    choose(store, old)

    assert led_to(store, "new") == old
    store.set_state(old, "quarantined", tenant="acme")
    assert led_to(store, "new") == new


def test_choice_may_end(store):
    """An adapter that is nobody's choice any more is its hypernetwork's again."""
    old = add(store, 1, OLD)
    store.aliases.set("mail", old, tenant="acme")
    store.aliases.remove("mail", tenant="acme")

    assert led_to(store, "new") is None


def test_imported_is_everybodys(store):
    """An export of another library keeps its hypernetwork's id and serves its texts."""
    imported = add(store, 1, Lineage("imported", "a.zip", "old"))

    assert led_to(store, "new") == imported
    assert store.get(imported, tenant="acme").lineage.hypernet_id == "old"


def test_unknown_hypernetwork(store):
    """An adapter of which nobody knows what wrote it serves its texts."""
    unknown = add(store, 1, Lineage())

    assert led_to(store, "new") == unknown == near(store, "new")[0]


@pytest.mark.parametrize("deleted", [False, True])
def test_two_hypernetworks_write_the_same(store, deleted):
    """Equal adapters are one, and each of the hypernetworks finds it: neither writes it again."""
    old = add(store, 1, OLD)
    if deleted:
        store.delete(old, tenant="acme")

    assert add(store, 1, NEW) == old
    assert led_to(store, "old") == led_to(store, "new") == old
    assert add(store, 1, OLD) == old
    record = store.get(old, tenant="acme")
    assert (record.lineage.hypernet_id, record.state) == (None, "generated")
    (noted,) = [entry for entry in store.history(old) if entry.action == "lineage"]
    assert noted.detail["previous"] == {"origin": "generated", "hypernet_id": "old"}


def test_import_of_what_is_held(store):
    """Importing an adapter that is held makes it an imported one, and says so once."""
    old = add(store, 1, OLD)
    for _ in range(2):
        CHOICES["imported"](store, old)

    lineage = store.get(old, tenant="acme").lineage
    assert lineage == Lineage("imported", "x", "old")
    assert sum(entry.action == "lineage" for entry in store.history(old)) == 1
    add(store, 1, NEW)
    assert store.get(old, tenant="acme").lineage == lineage


def test_others_hide_nothing(store):
    """However many nearer adapters another hypernetwork wrote, one's own behind them is found."""
    for seed in range(60):
        add(store, seed, NEW if seed == 33 else OLD, text=f"Text {seed}", near=seed)

    (mine,) = near(store, "new", k=2)
    assert store.get(mine, tenant="acme").description == "Text 33"


def test_filter_by_hypernetwork(store):
    """What another hypernetwork wrote can be listed and pruned."""
    old, new = add(store, 1, OLD), add(store, 2, NEW)
    named = add(store, 3, OLD, text="Another", near=3)
    store.aliases.set("mail", named, tenant="acme")
    policy = PrunePolicy(expressions=("hypernet=ol",))

    assert [record.id for record in store.page(["hypernet=old"])] == [named, old]
    assert [step.subject for step in store.maintenance.plan(policy)] == [old]
    assert [record.id for record in store.page(["hypernet=new"])] == [new]


@pytest.mark.parametrize("kind", ["text", "delta"])
def test_duplicates_of_one_hypernetwork(store, kind):
    """Adapters of two hypernetworks are no duplicates: merged, one of them would miss its texts."""
    old = add(store, 1, OLD)
    add(store, 1, NEW, lora_alpha=8)
    stronger = add(store, 1, OLD, lora_alpha=16)

    (found,) = store.dedupe.clusters(kind, tenant="acme", threshold=0.99)

    assert {found.keep.id, *(record.id for record in found.merge)} == {old, stronger}
