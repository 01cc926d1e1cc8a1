"""Which adapter occupies which slot of an engine."""

from collections import OrderedDict
from dataclasses import dataclass

from adapters_store.identity import AdapterId


@dataclass(slots=True)
class _Occupant:
    slot: int
    users: int


class SlotTable:
    """
    Assigns slots to adapters; the one unused for longest makes room, one in use never does.

    Args:
        n_slots: Slots 1 to *n_slots* are assigned.
    """

    def __init__(self, n_slots: int) -> None:
        self._free = list(range(n_slots, 0, -1))
        self._occupants: OrderedDict[AdapterId, _Occupant] = OrderedDict()  # last used is last

    def acquire(self, adapter_id: AdapterId) -> tuple[int, bool] | None:
        """
        Give an adapter a slot for one request.

        Returns:
            The slot, and whether the adapter's tensors must be copied into it first; None while
            every slot is in use by other adapters.
        """
        occupant = self._occupants.get(adapter_id)
        is_new = occupant is None
        if occupant is None:
            slot = self._make_room()
            if slot is None:
                return None
            occupant = self._occupants[adapter_id] = _Occupant(slot, users=0)
        self._occupants.move_to_end(adapter_id)
        occupant.users += 1
        return occupant.slot, is_new

    def release(self, adapter_id: AdapterId) -> None:
        """End one request's use; the adapter stays resident until its slot is needed."""
        occupant = self._occupants[adapter_id]
        assert occupant.users > 0, f"{adapter_id} is released more often than acquired"
        occupant.users -= 1

    def evict(self, adapter_id: AdapterId) -> None:
        """Free the slot of an adapter that no request uses."""
        occupant = self._occupants.pop(adapter_id)
        assert occupant.users == 0, f"{adapter_id} is evicted while in use"
        self._free.append(occupant.slot)

    @property
    def resident(self) -> tuple[AdapterId, ...]:
        """Adapters that hold a slot, the one unused for longest first."""
        return tuple(self._occupants)

    def _make_room(self) -> int | None:
        if not self._free:
            idle = next(
                (key for key, occupant in self._occupants.items() if not occupant.users), None
            )
            if idle is None:
                return None
            self.evict(idle)
        return self._free.pop()
