"""What the analysis measures, on a small hypernetwork."""

import json

import numpy as np
import pytest
import torch

from t2l_router import checkpoint
from t2l_router.hypernet import Hypernet
from tests.specs import config
from training import analysis


@pytest.fixture
def hypernet():
    torch.manual_seed(0)
    net = Hypernet(config())
    for head in net.heads.values():
        torch.nn.init.normal_(head.weight, std=0.05)
    return net.eval().requires_grad_(False)


def rows(n: int) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(n, 24)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_products_are_those_of_the_adapters(hypernet) -> None:
    """Inner products of entries and of delta-W agree with the written adapters'."""
    seen, entries, delta = analysis.look(hypernet, rows(5))

    pairs = hypernet(torch.from_numpy(rows(5)))
    flat = torch.cat([side.flatten(1) for pair in pairs.values() for side in pair], 1)
    full = torch.cat([(p.lora_B @ p.lora_A).flatten(1) for p in pairs.values()], 1)
    np.testing.assert_allclose(entries, (flat @ flat.T).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(delta, (full @ full.T).numpy(), rtol=1e-4, atol=1e-4)
    assert seen.encoding.shape == (5, 64)
    assert seen.activation.shape == (5, 2 * 2 * 512)


def test_centred_cosines_ignore_what_is_shared() -> None:
    """A common vector makes all alike; without it opposites are opposites again."""
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) + 10
    products = vectors @ vectors.T

    assert analysis.cosines(products, centred=False).min() > 0.9
    centred = analysis.cosines(products, centred=True)
    assert centred[0, 1] == pytest.approx(-1)
    assert centred[0, 2] == pytest.approx(0, abs=1e-9)


def test_same_family_neighbours() -> None:
    """Counted over families of two or more."""
    points = np.array([[1, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1], [0, 5.0]], np.float32)
    assert analysis.same_family_neighbours(points, ["a", "a", "b", "b", "c"]) == 1
    assert analysis.same_family_neighbours(points, ["a", "b", "b", "a", "c"]) == 0


def test_analysis_command(hypernet, corpus, tmp_path, monkeypatch) -> None:
    """Figures as JSON and two pictures."""

    class Encoder:
        def embed(self, texts):
            return rows(len(texts))

    monkeypatch.setattr(analysis, "load_encoder", lambda name: Encoder())
    checkpoint.save_pretrained(hypernet, tmp_path / "net", card="")
    analysis.main(
        ["--corpus", str(corpus), "--splits", "train,validation", "--checkpoint",
         str(tmp_path / "net"), "--images", str(tmp_path), "--json", str(tmp_path / "a.json")]
    )  # fmt: skip

    document = json.loads((tmp_path / "a.json").read_text())
    assert document["setup"]["tasks"] == 6
    assert str(corpus) not in document["run"]["command"]
    assert set(document["metrics"]["same_family_neighbour"]) == {
        "description embedding", "task encoder", "last MLP",
    }  # fmt: skip
    for name in ("tsne.png", "similarity.png"):
        assert (tmp_path / name).stat().st_size > 1_000
