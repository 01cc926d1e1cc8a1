"""Averaged and routed oracles, against explicit sums and against PEFT."""

import pytest
import torch
from peft import ArrowConfig, create_arrow_model

from t2l_router.lora import LoraSpec
from tests.specs import adapter
from training.base import load_frozen
from training.mixtures import arrow, average, prototypes
from training.oracle_file import Oracles

EXPERTS = 5


@pytest.fixture(scope="module")
def experts(tiny_base):
    """Adapters whose largest singular value stands out, so that power iteration finds it too."""
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    spec = LoraSpec.from_model(model, base_model="tiny", base_fingerprint="f", rank=4)
    adapters = [adapter(spec, seed, size=0.5) for seed in range(EXPERTS)]
    for weights in adapters:
        for b in weights.lora_B.values():
            b[..., 0] *= 4
    return spec, adapters


@pytest.fixture(scope="module")
def oracles(experts) -> Oracles:
    spec, adapters = experts
    names = [module.name for module in spec.modules]
    return Oracles(
        spec,
        [f"t{i}" for i in range(EXPERTS)],
        {n: torch.stack([w.lora_A[n] for w in adapters]) for n in names},
        {n: torch.stack([w.lora_B[n] for w in adapters]) for n in names},
        torch.empty(0, 0),
        torch.empty(0, dtype=torch.long),
    )


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.fixture
def ids():
    return torch.randint(0, 250, (3, 17), generator=torch.Generator().manual_seed(0))


def test_average_is_the_mean_of_delta_w(tiny_base, oracles, experts, ids) -> None:
    """The same logits as a model whose weights got the mean of all delta-W added."""
    spec, adapters = experts
    merged = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    for module in spec.modules:
        for layer in range(spec.n_layers):
            target = merged.get_submodule(module.path.format(layer=layer))
            for weights in adapters:
                a, b = weights.lora_A[module.name][layer], weights.lora_B[module.name][layer]
                target.weight.data += spec.scaling / EXPERTS * (b.float() @ a.float())
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    before = logits(model, ids)

    with average(model, oracles):
        inside = logits(model, ids)

    torch.testing.assert_close(inside, logits(merged, ids), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inside, before, atol=1e-2)
    assert torch.equal(logits(model, ids), before)


def test_arrow_routes_as_peft_does(tiny_base, oracles, experts, ids, tmp_path) -> None:
    """The same logits as PEFT's Arrow model over the same adapters."""
    for i, weights in enumerate(experts[1]):
        weights.save_peft(tmp_path / str(i))
    reference = create_arrow_model(
        load_frozen(tiny_base.path, device="cpu", dtype=torch.float32),
        [str(tmp_path / str(i)) for i in range(EXPERTS)],
        ArrowConfig(top_k=3, router_temperature=1.0, rng_seed=0),
    ).eval()
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)

    with arrow(model, oracles):
        ours = logits(model, ids)

    torch.testing.assert_close(ours, logits(reference, ids), rtol=2e-3, atol=2e-3)
    assert not torch.allclose(ours, logits(model, ids), atol=1e-2)


def test_prototypes_are_first_right_singular_vectors(oracles) -> None:
    """They agree with a full SVD, up to sign."""
    a, b = oracles.lora_A["q_proj"][:, 0].float(), oracles.lora_B["q_proj"][:, 0].float()

    found = prototypes(a, b)

    right = torch.linalg.svd(b @ a).Vh[:, 0]
    torch.testing.assert_close((found * right).sum(-1).abs(), torch.ones(EXPERTS))


def test_one_expert_is_that_expert(tiny_base, oracles, ids) -> None:
    """Average and routing over a library of one are that adapter."""
    one = Oracles(
        oracles.spec, ["t0"],
        *({n: t[:1] for n, t in side.items()} for side in (oracles.lora_A, oracles.lora_B)),
        oracles.embeddings, oracles.embedding_tasks,
    )  # fmt: skip
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    with average(model, one):
        averaged = logits(model, ids)
    with arrow(model, one):
        routed = logits(model, ids)
    torch.testing.assert_close(averaged, routed, rtol=1e-4, atol=1e-4)
