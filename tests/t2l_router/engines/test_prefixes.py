import torch

from t2l_router.engines.kv import SavedKv
from t2l_router.engines.prefixes import MIN_TOKENS, PrefixKey, PrefixStore

BASE = PrefixKey(None)
IDS = list(range(100))


def saved(n: int) -> SavedKv:
    return SavedKv([(torch.zeros(1, n, 1), torch.zeros(1, n, 1))], n)


def add(store: PrefixStore, key: PrefixKey, ids: list[int]) -> None:
    store.add(key, ids, len(ids), lambda: saved(len(ids)))


def test_longest_common_beginning():
    """The saved row that shares most is found, as far as it goes."""
    store = PrefixStore(lambda: 1_000)
    add(store, BASE, [*IDS[:50], 999])
    add(store, BASE, [*IDS[:70], 998])

    n, _ = store.longest(BASE, IDS)

    assert n == 70
    assert store.longest(BASE, IDS[: MIN_TOKENS - 1]) is None


def test_nothing_is_shared_between_keys():
    """Neither another adapter nor another salt finds a row."""
    store = PrefixStore(lambda: 1_000)
    add(store, PrefixKey("t2l-1", "x"), IDS)

    assert store.longest(PrefixKey("t2l-1", "x"), IDS) is not None
    for key in (BASE, PrefixKey("t2l-2", "x"), PrefixKey("t2l-1"), PrefixKey("t2l-1", "y")):
        assert store.longest(key, IDS) is None


def test_next_turn_takes_the_place_of_the_last():
    """A conversation is held once, and a shorter beginning of it not again."""
    store = PrefixStore(lambda: 1_000)

    add(store, BASE, IDS[:50])
    add(store, BASE, IDS)
    add(store, BASE, IDS[:60])

    assert (len(store), store.nbytes) == (1, 100)


def test_the_one_unused_for_longest_makes_room():
    """Memory stays within its limit, also when the limit shrinks."""
    room = 250
    store = PrefixStore(lambda: room)
    rows = [[start, *IDS] for start in (500, 600, 700)]
    add(store, BASE, rows[0])
    add(store, BASE, rows[1])
    store.longest(BASE, rows[0])

    add(store, BASE, rows[2])

    assert store.longest(BASE, rows[1]) is None
    assert store.longest(BASE, rows[0]) is not None
    room = 0
    store.shrink()
    assert (len(store), store.nbytes) == (0, 0)
