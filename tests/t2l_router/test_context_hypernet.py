import dataclasses

import numpy as np
import pytest
import torch

from t2l_router import checkpoint
from t2l_router.context import ANSWER, FILLER, INPUT, Reading
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.errors import GenerationFailed
from t2l_router.generator import AdapterGenerator
from t2l_router.reader import ReaderConfig
from tests.specs import config, spec

READER = ReaderConfig((0, 2), hidden=8, width=16, n_heads=4, n_blocks=1)


def new(*, copies: bool = True, heads: bool = True) -> ContextHypernet:
    torch.manual_seed(0)
    reader = dataclasses.replace(READER, copies=copies)
    hypernet = ContextHypernet(dataclasses.replace(config("L"), reader=reader))
    if heads:
        for head in (*hypernet.head_A.values(), *hypernet.head_B.values()):
            torch.nn.init.normal_(head.weight)
    return hypernet.eval()


def reading(*, filler: int = 0, states: float = 1.0) -> Reading:
    """Two tasks: embedding and tokens, and tokens alone."""
    torch.manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(2, 24), dim=1)
    embeddings[1] = 0
    kinds = torch.tensor([[INPUT, INPUT, ANSWER]] * 2)
    values = states * torch.randn(2, 3, READER.raw)
    kinds = torch.nn.functional.pad(kinds, (0, filler), value=FILLER)
    return Reading(embeddings, torch.nn.functional.pad(values, (0, 0, 0, filler), value=9), kinds)


@torch.no_grad()
def written(hypernet: ContextHypernet, known: Reading) -> torch.Tensor:
    pairs = hypernet(known).values()
    return torch.cat([(pair.lora_B @ pair.lora_A).flatten(1) for pair in pairs], 1)


def test_new_one_changes_nothing() -> None:
    """Before training delta-W is 0, with the shapes that the spec says."""
    hypernet = new(heads=False)
    assert not written(hypernet, reading()).any()
    for module in spec().modules:
        pair = hypernet(reading())[module.name]
        assert pair.lora_A.shape == (2, spec().n_layers, spec().rank, module.d_in)
        assert pair.lora_B.shape == (2, spec().n_layers, module.d_out, spec().rank)


def test_filler_is_not_read() -> None:
    """A row's adapter doesn't depend on how wide the other rows are."""
    hypernet = new()
    torch.testing.assert_close(written(hypernet, reading()), written(hypernet, reading(filler=4)))


@pytest.mark.parametrize("copies", [True, False])
def test_tokens_and_embeddings_are_read(copies: bool) -> None:
    """Other tokens, another embedding: another adapter."""
    hypernet, known = new(copies=copies), reading()
    with torch.no_grad():
        for copy in hypernet.copy_B.values():
            torch.nn.init.normal_(copy.weight)
    one = written(hypernet, known)
    other = written(hypernet, dataclasses.replace(known, states=-known.states))
    turned = written(hypernet, dataclasses.replace(known, embeddings=-known.embeddings))

    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], turned[0])
    torch.testing.assert_close(one[1], turned[1])


def test_copies_input_embeddings() -> None:
    """With the heads at zero, what is copied alone makes lora_B, from depth 0 alone."""
    hypernet, known = new(heads=False), reading()
    with torch.no_grad():
        for copy in hypernet.copy_B.values():
            torch.nn.init.eye_(copy.weight)
        deeper = known.states.clone()
        hypernet.reader.seek.weight.zero_()  # attends to all tokens alike
        hypernet.reader.seek.bias.zero_()
        hypernet.gate.weight.zero_()
        deeper[..., READER.hidden :] += 1
        one = written(hypernet, known)
        torch.testing.assert_close(
            written(hypernet, dataclasses.replace(known, states=deeper)), one
        )
        assert one.any()


def test_checkpoint_takes_readings_and_embeddings(tmp_path) -> None:
    """A saved one loads as what it is; descriptions' embeddings alone do, too."""
    hypernet = new()
    checkpoint.save_pretrained(hypernet, tmp_path / "net", card="")
    generator = AdapterGenerator.load(tmp_path / "net", base=spec())
    rows = np.eye(24, dtype=np.float32)[:3]

    assert generator.reads == READER
    assert len(generator.generate(reading())) == 2
    alone = Reading.of(torch.from_numpy(rows), READER.raw)
    ids = [[adapter.adapter_id for adapter in generator.generate(k)] for k in (rows, alone)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    with pytest.raises(GenerationFailed, match=r"shape \(3, 5\)"):
        generator.generate(np.zeros((3, 5), np.float32))
