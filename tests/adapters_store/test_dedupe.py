"""Adapters that do or mean the same are found, and merged without losing anything."""

import numpy as np
import pytest
from safetensors.numpy import save

from adapters_store import AdapterFiles
from adapters_store.delta import delta_cosine, delta_norm
from adapters_store.errors import AdapterPinned
from tests.adapter_files import (
    BASE,
    ENCODER,
    add,
    make_config,
    make_embedding,
    make_files,
    make_task,
    make_tensors,
)


def variant(seed, noise):
    """The adapter of a seed, slightly changed."""
    rng = np.random.default_rng(99)
    tensors = {
        name: (tensor + noise * rng.normal(size=tensor.shape)).astype(np.float32)
        for name, tensor in make_tensors(seed).items()
    }
    return AdapterFiles(make_config(), save(tensors))


def full_delta(files):
    """The scaled delta-W of all modules as one vector, formed the slow way."""
    parts = []
    for module in files.modules:
        a, b = (np.frombuffer(t.data, "<f4").reshape(t.shape) for t in files.pair(module))
        parts.append((files.settings.scaling * b @ a).ravel())
    return np.concatenate(parts)


def test_delta_agrees_with_full_matrices():
    """Norm and cosine from Gram matrices are those of the full delta-W."""
    one, two = make_files(1), variant(1, 0.3)
    w1, w2 = full_delta(one), full_delta(two)

    assert delta_norm(one) == pytest.approx(np.linalg.norm(w1), rel=1e-5)
    expected = w1 @ w2 / np.linalg.norm(w1) / np.linalg.norm(w2)
    assert delta_cosine(one, two) == pytest.approx(expected, abs=1e-5)


def test_dedupe_by_delta(store):
    """Adapters that do the same are found by their weights, and nothing else is."""
    twins = [
        store.add(files, tenant="acme", base=BASE, task=make_task(seed))
        for seed, files in enumerate([make_files(1), variant(1, 0.01), variant(1, 0.02)])
    ]
    for seed in range(5, 25):
        add(store, seed)
    store.record_uses({twins[1].id: 5}, tenant="acme")

    (cluster,) = store.dedupe.clusters("delta", tenant="acme", threshold=0.98)

    assert cluster.keep.id == twins[1].id
    assert {record.id for record in cluster.merge} == {twins[0].id, twins[2].id}
    assert 0.98 <= cluster.likeness <= 1
    assert store.dedupe.clusters("delta", tenant="rival", threshold=0.98) == []


def test_dedupe_by_text(store):
    """Adapters whose texts mean the same are found by their embeddings."""
    one = store.add(make_files(1), tenant="acme", base=BASE, task=make_task(3, "One"))
    two = store.add(make_files(2), tenant="acme", base=BASE, task=make_task(3, "Two"))
    add(store, 4)

    (cluster,) = store.dedupe.clusters("text", tenant="acme", threshold=0.95)

    assert (cluster.keep.id, [record.id for record in cluster.merge]) == (one.id, [two.id])


def test_merge(store):
    """The kept adapter takes over texts and aliases; the other can be brought back."""
    one = store.add(make_files(1), tenant="acme", base=BASE, task=make_task(1, "One"))
    two = store.add(variant(1, 0.01), tenant="acme", base=BASE, task=make_task(2, "Two"))
    store.aliases.set("mail", two.id, tenant="acme")
    (cluster,) = store.dedupe.clusters("delta", tenant="acme", threshold=0.98)

    store.dedupe.merge(cluster)

    assert store.get("mail", tenant="acme").id == one.id
    assert {text.text for text in store.descriptions(one.id, tenant="acme")} == {"One", "Two"}
    hits = store.search(make_embedding(2), tenant="acme", base=BASE, encoder=ENCODER)
    assert [hit.adapter.id for hit in hits] == [one.id]
    assert store.undelete(two.id, tenant="acme").description == "Two"


def test_merge_leaves_pins(store):
    """A pinned duplicate is not merged away."""
    add(store, 1)
    pinned = store.add(variant(1, 0.01), tenant="acme", base=BASE, task=make_task(2))
    cluster = store.dedupe.clusters("delta", tenant="acme", threshold=0.98)[0]
    store.pin(pinned.id, tenant="acme")

    with pytest.raises(AdapterPinned):
        store.dedupe.merge(cluster)
    assert len(store.page()) == 2
