"""Keys and values of answered conversations, for the turns that follow."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store.identity import AdapterId
from t2l_router.engines.kv import SavedKv

# Reading fewer tokens than this costs about as much as copying them.
MIN_TOKENS = 32


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """
    Who may share keys and values: they depend on the adapter as much as on the tokens.

    Args:
        adapter_id: A content hash, so that another adapter can't have the same; None is the base.
        salt: Requests with different salts share nothing, not even the time they save.
    """

    adapter_id: AdapterId | None
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    key: PrefixKey
    ids: NDArray[np.int32]
    kv: SavedKv


class PrefixStore:
    """
    Saved rows by key and tokens; the one unused for longest makes room.

    Args:
        room: Bytes that may be held at the moment.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # last used is last
        self._next = 0
        self.nbytes = 0

    def longest(self, key: PrefixKey, ids: Sequence[int]) -> tuple[int, SavedKv] | None:
        """Find the saved row that shares most tokens with the beginning of *ids*."""
        wanted = np.asarray(ids, dtype=np.int32)
        best, best_number = MIN_TOKENS - 1, -1
        for number, entry in self._entries.items():
            if entry.key == key and (n := shared(entry.ids, wanted)) > best:
                best, best_number = n, number
        if best_number < 0:
            return None
        self._entries.move_to_end(best_number)
        return best, self._entries[best_number].kv

    def add(
        self, key: PrefixKey, ids: Sequence[int], nbytes: int, save: Callable[[], SavedKv]
    ) -> None:
        """
        Save a row, unless it is too short, too large or known.

        Args:
            key: Who may share it.
            ids: Its tokens.
            nbytes: What it takes.
            save: Copies it out.
        """
        if len(ids) < MIN_TOKENS:
            return
        tokens = np.asarray(ids, dtype=np.int32)
        for number, entry in list(self._entries.items()):
            if entry.key != key:
                continue
            n = shared(entry.ids, tokens)
            if n == len(tokens):
                self._entries.move_to_end(number)
                return
            if n == len(entry.ids):  # an earlier turn of the same conversation
                self._drop(number)
        if nbytes > self._room():
            return
        self.shrink(nbytes)
        self._entries[self._next] = _Entry(key, tokens, save())
        self._next += 1
        self.nbytes += nbytes

    def shrink(self, needed: int = 0) -> None:
        """Drop what doesn't fit any more, with room for *needed* bytes if there can be."""
        while self._entries and self.nbytes + needed > self._room():
            self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, number: int) -> None:
        self.nbytes -= self._entries.pop(number).kv.nbytes


def shared(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Length of the common beginning."""
    n = min(len(one), len(other))
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n
