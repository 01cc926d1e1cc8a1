import torch
from torch.nn import functional as F  # noqa: N812

from t2l_router.hypernet import LoraPair
from tests.training.packs import new_trainer
from training.distillation import in_context_divergence


def test_divergence_is_from_the_model_that_sees_the_row(tiny_base, pack) -> None:
    """From the third example on, the target is the base model's next token after all before."""
    trainer = new_trainer(tiny_base, pack)
    batch = trainer._sampler.batch(0)
    base = trainer.base.eval()
    torch.manual_seed(0)
    pairs = {
        name: LoraPair(torch.randn_like(pair.lora_A), torch.randn_like(pair.lora_B))
        for name, pair in trainer.source(batch.embeddings).items()
    }
    places = (batch.input_ids, batch.position_ids, batch.label_at)
    logits = base(pairs, *places)
    actual = in_context_divergence(base, pairs, batch, logits)

    nothing = {name: LoraPair(pair.lora_A * 0, pair.lora_B * 0) for name, pair in pairs.items()}
    base(nothing, *places)  # leaves the base model unadapted
    plain = base.model(input_ids=batch.input_ids).logits.flatten(0, 1)[batch.label_at]
    before = (batch.position_ids == 0).cumsum(1).flatten()[batch.label_at] - 1
    expected = F.kl_div(
        logits.log_softmax(-1), plain.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    right = F.cross_entropy(logits, batch.labels, reduction="none")

    assert (before >= 2).any()
    assert (before < 2).any()
    torch.testing.assert_close(actual, torch.where(before >= 2, expected, right))


def test_distilling_run_goes_on_after_a_stop(tiny_base, pack, tmp_path) -> None:
    """A run with a teacher, resumed, gives what an uninterrupted one gives."""
    whole = new_trainer(tiny_base, pack, steps=4, distil=0.5)
    whole.run()
    first = new_trainer(tiny_base, pack, steps=4, distil=0.5)
    first.run(until=2)
    first.save_state(tmp_path / "state.safetensors")
    second = new_trainer(tiny_base, pack, steps=4, distil=0.5)
    second.load_state(tmp_path / "state.safetensors")
    second.run()

    for name, parameter in whole.source.named_parameters():
        torch.testing.assert_close(parameter, second.source.get_parameter(name), msg=name)
    assert whole.history[-1] == second.history[-1]
