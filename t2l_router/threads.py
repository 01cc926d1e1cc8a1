"""How many threads a piece of work takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """
    Have torch compute on the calling thread alone; other threads that use torch keep their number.

    For work of a few milliseconds: each operation that is shared out waits for the other thread to
    be there, up to 100 ms where a core is busy. A thread that uses torch for the first time inside
    keeps one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
