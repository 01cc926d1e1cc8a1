import dataclasses
import json

import numpy as np
import pytest
import torch

from t2l_router import checkpoint, policy
from t2l_router.errors import CheckpointMismatch, GenerationFailed, ModelCorrupt, ModelUnavailable
from t2l_router.generator import AdapterGenerator
from t2l_router.hypernet import Hypernet
from tests.specs import config, spec


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a hypernetwork whose heads aren't zero."""
    torch.manual_seed(0)
    hypernet = Hypernet(config("S", max_delta_norm=1e6))
    for head in hypernet.heads.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    checkpoint.save_pretrained(hypernet, tmp_path / "net", card="# Card\n")
    return tmp_path / "net"


def unit(rows: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(rows, 24)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_round_trip(saved) -> None:
    """A checkpoint loads with its config and, up to bf16, its outputs; saving again is stable."""
    hypernet = checkpoint.from_pretrained(saved)

    assert hypernet.config == config("S", max_delta_norm=1e6)
    assert not hypernet.training
    before = checkpoint.hypernet_id(saved)
    checkpoint.save_pretrained(hypernet, saved, card="# Card\n")
    assert checkpoint.hypernet_id(saved) == before
    assert (saved / "README.md").read_text() == "# Card\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), r"net is no checkpoint: no config\.json$"),
        (lambda d: (d / "config.json").write_text("{}"), "not a hypernetwork config"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors"),
        (
            lambda d: (d / "model.safetensors").write_bytes(
                (d / "model.safetensors").read_bytes()[:5000]
            ),
            "get the checkpoint anew",
        ),
        (lambda d: edit(d, variant="L"), "weights don't fit"),
        (lambda d: edit(d, format=99), "another version"),
    ],
)
def test_damaged_checkpoint(saved, damage, message: str) -> None:
    """A checkpoint with missing, torn or foreign files is refused with its path."""
    damage(saved)

    with pytest.raises(ModelCorrupt, match=message):
        checkpoint.from_pretrained(saved)


def test_folder_of_a_run(saved, tmp_path) -> None:
    """Who names a training run's folder is told which folder in it is the checkpoint."""
    saved.rename(tmp_path / "checkpoint")

    with pytest.raises(ModelCorrupt, match=r"no config\.json; .*/checkpoint is one"):
        checkpoint.from_pretrained(tmp_path)


def edit(directory, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_unknown_checkpoint(monkeypatch) -> None:
    """A path that isn't there is told as such; else what the hub says, in a line."""

    def download(*_: object, **__: object) -> str:
        raise OSError("no route to the hub\nPlease check your connection.")

    with pytest.raises(ModelUnavailable, match="there is no checkpoint directory '/no/such/place'"):
        checkpoint.from_pretrained("/no/such/place")
    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    with pytest.raises(ModelUnavailable, match=r"none of default, .* no route to the hub\Z"):
        checkpoint.from_pretrained("owner/net")


def test_generator_refuses_another_base_model(saved) -> None:
    """Same name and other shapes, or another name: both are refused."""
    for base in (spec(base="other"), spec(n_layers=3)):
        with pytest.raises(CheckpointMismatch, match="writes adapters for tiny"):
            AdapterGenerator.load(saved, base=base)


def test_generator_writes_valid_adapters_for_this_base(saved) -> None:
    """Adapters carry the served base's fingerprint, are bf16, and don't depend on the batch."""
    base = dataclasses.replace(spec(), base_fingerprint="1" * 64)
    generator = AdapterGenerator.load(saved, base=base)

    adapters = generator.generate(unit(3))

    assert len({adapter.adapter_id for adapter in adapters}) == 3
    assert {adapter.spec.base_fingerprint for adapter in adapters} == {"1" * 64}
    assert adapters[0].lora_A["q_proj"].dtype == torch.bfloat16
    assert generator.generate(unit(3)[:1])[0].delta_distance(adapters[0]) < 0.02


def test_generator_refuses_unusable_adapters(saved) -> None:
    """Too large, not finite, or embeddings of another width: an error, never an adapter."""
    generator = AdapterGenerator.load(saved, base=spec())
    with pytest.raises(GenerationFailed, match=r"shape \(3, 5\)"):
        generator.generate(np.zeros((3, 5), np.float32))
    with pytest.raises(GenerationFailed, match="NaN"):
        generator.generate(np.full((1, 24), np.nan, np.float32))

    edit(saved, max_delta_norm=1e-6)
    with pytest.raises(GenerationFailed, match="above the limit"):
        AdapterGenerator.load(saved, base=spec()).generate(unit(1))


def test_shipped_checkpoint_loads() -> None:
    """The checkpoint in the package is whole, small, and has a card."""
    hypernet = checkpoint.from_pretrained(checkpoint.SENTENCES)

    assert hypernet.config.lora.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hypernet.config.max_delta_norm is not None
    folder = checkpoint._locate(checkpoint.SENTENCES, None)
    assert (folder / "model.safetensors").stat().st_size < 20e6
    assert "Limits" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", checkpoint.SHIPPED)
def test_what_ships_fits_together(name: str) -> None:
    """Every checkpoint that ships loads, and the one for examples is the one that reads tokens."""
    config = checkpoint.from_pretrained(name).config

    assert (config.reader is not None) == (name == checkpoint.EXAMPLES)


def test_both_write_by_default() -> None:
    """The default is both that ship, whether it is named or they are; thresholds are measured."""
    both = checkpoint.from_pretrained()

    assert both.config.lora.rank == 16
    assert both.config.reader is not None
    ids = {checkpoint.hypernet_id(n) for n in ("default", "+".join(checkpoint.SHIPPED))}
    assert ids == {checkpoint.hypernet_id()}
    assert checkpoint.hypernet_id() in {measured.hypernet_id for measured in policy.MEASURED}
