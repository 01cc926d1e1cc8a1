import pytest
import torch
from safetensors.torch import load_file, save_file

from t2l_router import checkpoint, encoder_lora
from t2l_router.encoder import TaskEncoder
from t2l_router.errors import ModelCorrupt
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.models import pull
from tests.training.packs import new_trainer
from training.tuning import TunedHypernet, TunedTrainer

pytestmark = pytest.mark.real

TEXTS = ["Translate to French.", "Answer with yes or no.", "Count to 10"]


@pytest.fixture(scope="module")
def minilm_model(model_cache):
    return pull("all-minilm-l6-v2", cache_dir=model_cache)


@pytest.fixture(scope="module")
def trained(minilm_model, tiny_base, pack):
    """A trainer after a few steps."""

    def source(spec):
        torch.manual_seed(1)
        hypernet = Hypernet(HypernetConfig(spec, 384, "minilm", "frozen"))
        return TunedHypernet.load(hypernet, minilm_model.path, rank=4, alpha=16)

    trainer = new_trainer(tiny_base, pack, source=source, trainer=TunedTrainer, steps=4, ema=0.5)
    trainer.before = trainer.source.eval().encode(TEXTS)
    trainer.run()
    return trainer


def test_starts_as_it_was(trained: TunedTrainer, minilm: TaskEncoder) -> None:
    """Before training, the encoder embeds as the frozen one does."""
    torch.testing.assert_close(
        trained.before, torch.from_numpy(minilm.embed(TEXTS)), atol=1e-5, rtol=0
    )


def test_trains_the_change_alone(trained: TunedTrainer) -> None:
    """Training moves the change of every layer it reaches, and no weight of the model."""
    moved = {
        name: parameter.requires_grad
        for name, parameter in trained.source.encoder.named_parameters()
        if "lora_" in name
    }
    frozen = [p for n, p in trained.source.encoder.named_parameters() if n not in moved]

    assert all(moved.values())
    assert not any(parameter.requires_grad for parameter in frozen)
    changes = [p for n, p in trained.source.encoder.named_parameters() if n.endswith("lora_B")]
    assert sum(bool(change.any()) for change in changes) > len(changes) // 2
    assert (trained.source.eval().encode(TEXTS) - trained.before).abs().max() > 1e-4


def test_serves_as_trained(trained: TunedTrainer, minilm, minilm_model, tmp_path) -> None:
    """The checkpoint's encoder embeds as the trained one and has the identity the config names."""
    with trained.averaged() as source:
        path = source.save_encoder(tmp_path)
        checkpoint.save_pretrained(
            source.hypernet, tmp_path / "checkpoint", card="", encoder_lora=path
        )
        expected = source.encode(TEXTS).detach()
    lora = checkpoint.encoder_lora(tmp_path / "checkpoint")
    served = TaskEncoder.load(minilm_model, lora=lora)

    actual = torch.from_numpy(served.embed(TEXTS))
    torch.testing.assert_close(actual, expected, atol=2e-3, rtol=0)
    assert (actual - torch.from_numpy(minilm.embed(TEXTS))).abs().max() > 1e-4
    config = checkpoint.from_pretrained(tmp_path / "checkpoint").config
    assert config.encoder_fingerprint == encoder_lora.fingerprint("frozen", lora)
    assert served.fingerprint == encoder_lora.fingerprint(minilm.fingerprint, lora)


def test_foreign_change_is_refused(trained: TunedTrainer, minilm_model, tmp_path) -> None:
    """A file that was made for another encoder, or is none, names itself and what to do."""
    path = trained.source.save_encoder(tmp_path)
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, metadata={"facts": '{"scaling": 1.0}'})
    with pytest.raises(ModelCorrupt, match="made for another encoder"):
        TaskEncoder.load(minilm_model, lora=path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelCorrupt, match="get the checkpoint anew"):
        TaskEncoder.load(minilm_model, lora=path)


def test_no_change_shipped() -> None:
    """The checkpoint that ships uses the encoder as it is."""
    assert checkpoint.encoder_lora() is None
