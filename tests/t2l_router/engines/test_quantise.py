import torch
from torch import nn

from t2l_router.engines.quantise import Int8Linear, quantise


def test_same_for_few_rows_and_many():
    """The packed kernel and the bfloat16 weights give the same outputs, near the original's."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).bfloat16()
    packed = Int8Linear(linear)
    x = torch.randn(8, 64).bfloat16()

    with torch.inference_mode():
        many = packed(x)
        few = torch.cat([packed(row[None]) for row in x])
        original = linear(x)

    torch.testing.assert_close(few, many, rtol=0.02, atol=0.02)
    assert (many - original).norm() / original.norm() < 0.01
    assert packed(x[None, :2]).shape == (1, 2, 48)


def test_every_linear_module_is_replaced():
    """Modules inside modules too; what is no linear module stays."""
    model = nn.Sequential(nn.Linear(32, 32), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16)))
    kept = model[1][0]

    quantise(model.bfloat16())

    assert type(model[0]) is type(model[1][1]) is Int8Linear
    assert model[1][0] is kept
