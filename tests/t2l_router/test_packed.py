"""Packed linear modules: the same numbers as torch's own."""

import torch
from torch import nn

from t2l_router.packed import PackedLinear, pack


def test_pack() -> None:
    """A packed model answers as before, for any number of rows, with and without a bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 16, bias=False))
    rows = [torch.randn(*shape, 48) for shape in ((1,), (24,), (3, 50))]
    with torch.inference_mode():
        before = [model(x) for x in rows]
        pack(model)
        after = [model(x) for x in rows]

    assert isinstance(model[0], PackedLinear)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_pack_leaves_other_dtypes() -> None:
    """What isn't float32 stays as it is: rounding would change embeddings."""
    model = nn.Sequential(nn.Linear(8, 8)).bfloat16()

    pack(model)

    assert type(model[0]) is nn.Linear
