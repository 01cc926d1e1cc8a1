from hypothesis import given
from hypothesis import strategies as st

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.echo import EchoWeights
from t2l_router.library import MemoryLibrary


def adapter(name: str, n_bytes: int = 10) -> AdapterRef:
    return AdapterRef(AdapterId(name), EchoWeights(AdapterId(name), n_bytes))


def test_find_by_description_and_id():
    """An adapter is found by the text it was made for and by its id."""
    library = MemoryLibrary(100)
    held = adapter("a")
    library.add("acme", "Translate", held)

    assert library.find("acme", "Translate") is held
    assert library.get("acme", "a") is held
    assert library.find("acme", "translate") is None


def test_tenants_are_apart():
    """One tenant's adapters don't exist for another."""
    library = MemoryLibrary(100)
    library.add("acme", "Translate", adapter("a"))

    assert library.find("rival", "Translate") is None
    assert library.get("rival", "a") is None
    assert library.ids("rival") == []


def test_two_descriptions_of_one_adapter():
    """Two texts may reach the same adapter, which is held once."""
    library = MemoryLibrary(10)
    library.add("acme", "Translate", adapter("a"))
    library.add("acme", "Translate it", adapter("a"))

    assert library.find("acme", "Translate").adapter_id == "a"
    assert library.find("acme", "Translate it").adapter_id == "a"
    assert library.ids("acme") == ["a"]


def test_longest_unused_makes_room():
    """Over the limit the adapter unused for longest goes, with its description."""
    library = MemoryLibrary(20)
    library.add("acme", "one", adapter("a"))
    library.add("acme", "two", adapter("b"))
    library.find("acme", "one")
    library.add("acme", "three", adapter("c"))

    assert library.ids("acme") == ["c", "a"]
    assert library.find("acme", "two") is None


def test_newest_is_held_whatever_its_size():
    """An adapter larger than the limit is held while it is the newest."""
    library = MemoryLibrary(5)
    library.add("acme", "one", adapter("a"))
    library.add("acme", "two", adapter("b"))

    assert library.ids("acme") == ["b"]


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 9), st.integers(1, 30))))
def test_memory_is_bounded(adds):
    """Whatever is added, what is held fits, and every description leads to a held adapter."""
    library = MemoryLibrary(60)
    for tenant, number, n_bytes in adds:
        name = f"{tenant}{number}-{n_bytes}"
        library.add(tenant, f"task {name}", adapter(name, n_bytes))

    held = [library.get(t, name).weights.nbytes for t in "xy" for name in library.ids(t)]
    assert sum(held) <= 60
    assert len(library._ids) == len(held)
