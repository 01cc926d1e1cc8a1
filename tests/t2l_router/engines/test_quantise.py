import pytest
import torch
from torch import nn

from t2l_router.engines import quantise as module
from t2l_router.engines.quantise import Int4Linear, Int8Linear, PackedLinear, quantise


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("form", "loses"), [(PackedLinear, 0.004), (Int8Linear, 0.01)])
def test_near_the_original_for_few_rows_and_many(form: type[PackedLinear], loses: float) -> None:
    """Every kernel gives the same outputs, near the original's, with a bias and any shape."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).bfloat16()
    packed = form(linear)
    x = torch.randn(24, 64).bfloat16()

    with torch.inference_mode():
        many = packed(x)
        few = torch.cat([packed(row[None]) for row in x])
        original = linear(x)

    torch.testing.assert_close(few, many, rtol=0.02, atol=0.02)
    assert relative(many, original) < loses
    assert packed(x[None, :2]).shape == (1, 2, 48)
    # A slice of something larger, as the last token's hidden state is.
    torch.testing.assert_close(packed(x[None, ::8]), many[None, ::8], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("form", [PackedLinear, Int8Linear])
@pytest.mark.parametrize("bias", [True, False])
def test_without_products_for_bfloat16(monkeypatch, form: type[PackedLinear], bias: bool) -> None:
    """Where the CPU emulates bfloat16, outputs are as near the exact ones, piece by piece too."""
    monkeypatch.setattr(module, "can_lay_out", lambda: False)
    monkeypatch.setattr(module, "_PIECE", 64 * 7)
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).bfloat16().requires_grad_(requires_grad=False)
    packed = form(linear)
    x = torch.randn(9, 64).bfloat16()
    weight = packed._many.double()
    exact = nn.functional.linear(x.double(), weight, linear.bias.double() if bias else None)

    for n in range(packed.few_rows + 1, 10):
        with torch.inference_mode():
            found = packed(x[:n])
        assert found.dtype == torch.bfloat16
        assert relative(found.double(), exact[:n]) < 0.003
    assert relative(packed(x[None]).double(), exact[None]) < 0.003  # outside inference mode, too


def in_groups_of_4_bits(d_out: int, d_in: int) -> torch.Tensor:
    """Weights as a Q4_1 file has them."""
    integers = torch.randint(0, 16, (d_out, d_in // 32, 32))
    integers[..., 0], integers[..., 1] = 0, 15  # a group's extremes define its scale
    scales = torch.rand(d_out, d_in // 32, 1) * 0.02
    return ((integers - 7.4) * scales).flatten(1)


def test_4_bits_keep_weights_of_4_bits() -> None:
    """Weights from a file with 4 bits lose next to nothing, for few rows and many."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    linear.weight.data = in_groups_of_4_bits(48, 64)
    linear.bfloat16()
    packed = Int4Linear(linear)
    x = torch.randn(24, 64).bfloat16()

    with torch.inference_mode():
        many = packed(x)
        few = torch.cat([packed(row[None]) for row in x])
        original = linear(x)

    torch.testing.assert_close(few, many, rtol=0.02, atol=0.02)
    assert relative(many, original) < 0.01


def test_4_bits_only_where_they_lose_no_more_than_8() -> None:
    """Asked for 4 bits, weights that need more get 8."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(24, 32))
    model[0].weight.data = in_groups_of_4_bits(32, 64)

    quantise(model.bfloat16(), "int4")

    assert [type(module) for module in model] == [Int4Linear, Int8Linear, Int8Linear]


def test_every_linear_module_is_replaced() -> None:
    """Modules inside modules too; what is no linear module stays."""
    model = nn.Sequential(nn.Linear(32, 32), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16)))
    kept = model[1][0]

    quantise(model.bfloat16(), "int8")

    assert type(model[0]) is type(model[1][1]) is Int8Linear
    assert model[1][0] is kept
