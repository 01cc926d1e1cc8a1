import threading

import pytest
import torch

from t2l_router.threads import one_thread


def test_one_thread():
    """The calling thread computes alone until the end of the block; others keep their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    inside, looked = threading.Event(), threading.Event()
    others = []

    def other() -> None:
        torch.set_num_threads(3)  # a thread that has used torch before
        others.append(torch.get_num_threads())
        inside.wait(10)
        others.append(torch.get_num_threads())
        looked.set()

    thread = threading.Thread(target=other)
    try:
        thread.start()
        with one_thread():
            inside.set()
            looked.wait(10)
            assert torch.get_num_threads() == 1
        after = torch.get_num_threads()
    finally:
        thread.join()
        torch.set_num_threads(before)

    assert others == [3, 3]
    assert after == 3


def test_number_comes_back_after_an_error():
    """An error inside leaves the number as it was."""
    before = torch.get_num_threads()

    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0

    assert torch.get_num_threads() == before
