"""The kernels in C; where this CPU or its compiler can't have them, only the way without them."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from t2l_router.engines.batch import Batch, Row
from t2l_router.engines.kv import KvBank
from t2l_router.engines.native import build
from t2l_router.engines.native.weights import GROUP, NativeLinear
from t2l_router.engines.quantise import quantise
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec
from tests.specs import adapter

D_OUT, D_IN = 48, 96
TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
N_ROWS = 11  # more than the kernels take at once


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The library, built here."""
    found = build.library(tmp_path_factory.mktemp("native"))
    if found is None:
        pytest.skip("no native kernels on this host")
    return found


def linear(weight, *, bias=False):
    """A module with these weights, in bfloat16."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=torch.bfloat16)
    made.weight.data = weight.bfloat16()
    return made.requires_grad_(requires_grad=False)


def on_grid(bits):
    """Weights as a file in 4 bits (Q4_1) or 8 (Q8_0) has them; with 16, on no grid."""
    random_numbers = torch.Generator().manual_seed(bits)
    shape = (D_OUT, D_IN // GROUP, GROUP)
    scales = (0.001 + torch.rand(*shape[:2], 1, generator=random_numbers) / 50).half().float()
    zeros = (scales * -7.3).half().float()
    if bits == 4:
        q = torch.randint(0, 16, shape, generator=random_numbers).float()
        q[..., 0], q[..., 1] = 0, 15  # a file's scales span the group
        return (q * scales + zeros).flatten(1)
    if bits == 8:
        q = torch.randint(-127, 128, shape, generator=random_numbers).float()
        q[..., 0] = 127
        return (q * scales).flatten(1)
    return torch.randn(D_OUT, D_IN, generator=random_numbers)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("bias", [False, True])
def test_products(kernels, bits, bias):
    """Weights are found on their grid, and products are right but for the last bits."""
    plain = linear(on_grid(bits), bias=bias)
    x = torch.randn(N_ROWS, D_IN).bfloat16()

    native = NativeLinear(plain, kernels)

    assert native.bits == bits
    want = nn.functional.linear(
        x.double(), plain.weight.double(), plain.bias.double() if bias else None
    )
    assert (native(x).double() - want).norm() < 2**-8 * want.norm()


def test_a_single_number_off_the_grid(kernels):
    """A matrix that the grid doesn't give bit by bit stays in bfloat16."""
    weight = on_grid(4).bfloat16()
    weight[7, 50] = (weight[7, 50].float() * (1 + 2**-7)).bfloat16()

    assert NativeLinear(linear(weight), kernels).bits == 16


@pytest.mark.parametrize("rows", range(1, N_ROWS + 1))
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_rows_do_not_depend_on_each_other(kernels, bits, rows):
    """A row's product is the same to the bit, alone or among others."""
    native = NativeLinear(linear(on_grid(bits)), kernels)
    x = torch.randn(N_ROWS, D_IN).bfloat16()

    torch.testing.assert_close(native(x[:rows]), native(x)[:rows], rtol=0, atol=0)


def make_batch(kernels=None):
    """A batch over a small random Llama in bfloat16, all its linear modules adapted."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config).bfloat16().eval().requires_grad_(requires_grad=False)
    spec = LoraSpec.from_model(
        model,
        base_model="tiny",
        base_fingerprint="0" * 64,
        rank=4,
        targets=TARGETS,
    )
    quantise(model, "bfloat16", kernels)
    bank = SlotBank(model, spec, 2)
    for slot in (1, 2):
        bank.insert(slot, adapter(spec, seed=slot, size=0.1))
    kv = KvBank(model, max_rows=N_ROWS, max_length=256, budget_bytes=1 << 24)
    return Batch(model, bank, kv)


def decoded(batch, rows, n_steps):
    """Logits of each row, step by step, with the same tokens chosen whatever they are."""
    found = {id(row): [] for row in rows}
    for row in rows:
        batch.join(row)
    batch.settle()
    while batch.unread:
        batch.read(batch.unread)
    for step in range(n_steps):
        ready = list(batch.ready)
        for row, logits in zip(ready, batch.decode(), strict=True):
            found[id(row)].append(logits.float().clone())
        for row in ready:
            batch.advance(row, (17 * len(row.ids) + step) % 300)
    for row in rows:
        batch.leave(row)
    return [torch.stack(found[id(row)]) for row in rows]


def some_rows():
    """Rows of different lengths, on two adapters and the base model."""
    dice = random.Random(3)
    lengths = [dice.randrange(2, 60) for _ in range(N_ROWS)]
    return [
        Row(i % 3, [dice.randrange(300) for _ in range(n)], n + 8) for i, n in enumerate(lengths)
    ]


def test_steps(kernels):
    """A whole step gives the logits that torch's own operations give, but for bfloat16's bits."""
    want = decoded(make_batch(), some_rows(), 5)

    found = decoded(make_batch(kernels), some_rows(), 5)

    for one, other in zip(found, want, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


def test_rows_of_a_step_do_not_depend_on_each_other(kernels):
    """A row's logits are the same to the bit, alone or in a mixed batch."""
    together = decoded(make_batch(kernels), some_rows(), 5)

    batch = make_batch(kernels)
    for want, row in zip(together, some_rows(), strict=True):
        torch.testing.assert_close(decoded(batch, [row], 5)[0], want, rtol=0, atol=0)


@pytest.mark.parametrize("module", TARGETS)
def test_poisoned_adapter(kernels, module):
    """Numbers that aren't finite show in the logits of their own row, whichever module has them."""
    batch = make_batch(kernels)
    weights = adapter(batch._slots.spec, seed=1, size=0.1)
    weights.lora_B[module][0, 0, 0] = float("nan")
    batch._slots.insert(1, weights)

    rows = [Row(i % 3, [5 + i], 9) for i in range(N_ROWS)]  # nothing is read before the step

    found = decoded(batch, rows, 1)

    assert [not one.isfinite().all() for one in found] == [row.slot == 1 for row in rows]


def test_built_once(kernels, tmp_path, monkeypatch):
    """A second process takes the library from the cache and needs no compiler."""
    build.library.cache_clear()
    assert build.library(tmp_path) is not None
    build.library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)

    assert build.library(tmp_path) is not None


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_no_compiler(tmp_path, monkeypatch, compiler):
    """Without a compiler that works there are no kernels, and nothing is left behind."""
    build.library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: compiler)

    assert build.library(tmp_path) is None
    assert [path for path in Path(tmp_path).rglob("*") if path.is_file()] == []
    build.library.cache_clear()
