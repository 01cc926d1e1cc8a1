import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from t2l_router.engines.residency import SlotTable


def test_slot_is_shared():
    """Requests with the same adapter share its slot, and only the first loads it."""
    table = SlotTable(2)

    assert table.acquire("a") == (1, True)
    assert table.acquire("a") == (1, False)


def test_adapter_stays_after_use():
    """An adapter nobody uses keeps its slot until that is needed."""
    table = SlotTable(2)
    table.acquire("a")
    table.release("a")

    assert table.acquire("a") == (1, False)
    assert table.resident == ("a",)


def test_longest_unused_goes_first():
    """The adapter unused for longest makes room."""
    table = SlotTable(2)
    for name in "ab":
        table.acquire(name)
        table.release(name)
    table.acquire("a")
    table.release("a")

    table.acquire("c")

    assert set(table.resident) == {"a", "c"}


def test_slot_in_use_is_never_given_away():
    """While every slot is in use a further adapter has to wait."""
    table = SlotTable(1)
    table.acquire("a")

    assert table.acquire("b") is None
    table.release("a")
    assert table.acquire("b") == (1, True)


def test_too_many_releases():
    """Releasing more often than acquiring is our bug, and found."""
    table = SlotTable(1)
    table.acquire("a")
    table.release("a")

    with pytest.raises(AssertionError):
        table.release("a")


class Residency(RuleBasedStateMachine):
    """Acquires and releases at random; a slot must always hold what its users think it holds."""

    uses = Bundle("uses")

    def __init__(self):
        super().__init__()
        self.table = SlotTable(3)
        self.loaded = {}  # slot -> adapter
        self.used = []

    @rule(target=uses, name=st.sampled_from("abcdef"))
    def acquire(self, name):
        got = self.table.acquire(name)
        if got is None:
            assert len(set(self.used)) == 3
            return None
        slot, is_new = got
        if is_new:
            self.loaded[slot] = name
        assert self.loaded[slot] == name
        self.used.append(name)
        return name

    @rule(name=consumes(uses))
    def release(self, name):
        if name is not None:
            self.table.release(name)
            self.used.remove(name)

    @invariant()
    def slots_in_use_are_untouched(self):
        assert set(self.used) <= set(self.loaded.values())
        assert len(self.table.resident) <= 3


Residency.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestResidency = Residency.TestCase
