import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from t2l_router import checkpoint
from t2l_router.errors import ConfigError
from t2l_router.example_features import Standard
from t2l_router.generator import AdapterGenerator
from t2l_router.hypernet import Hypernet, HypernetConfig, LoraPair
from tests.training.packs import WordEncoder, new_trainer
from training import example_rows
from training.conditioning import ConditionedTrainer
from training.conditions import Inputs, conditions
from training.corpus import load_tasks
from training.distillation import in_context_divergence
from training.example_rows import ExampleRows, draw
from training.sampling import sample
from training.systems import SYSTEMS

WIDTH = 6


def rows_of(names) -> ExampleRows:
    """Random rows, K=3 draws; each task's own direction."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(names), 3, WIDTH))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    standard = Standard(
        ("pairs",), (WIDTH,), np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)
    )
    return ExampleRows(list(names), rows.astype(np.float16), standard)


@pytest.fixture
def trainer(tiny_base, pack):
    """A trainer of a hypernetwork that reads words and examples."""

    def source(spec):
        config = HypernetConfig(
            spec, 24 + WIDTH, "w", "w", example_features="pairs", example_dim=WIDTH
        )
        return Hypernet(config)

    def conditioned(*args):
        return ConditionedTrainer(*args, examples=rows_of(["more", *pack.facts["tasks"]]))

    return new_trainer(tiny_base, pack, source=source, trainer=conditioned, steps=4, ema=0.5)


def test_rows_are_of_the_rows_task(trainer) -> None:
    """Each row's examples are of the task that its description describes."""
    batch = trainer._sampler.batch(0)
    given = trainer._embed(batch)
    rows = rows_of(["more", *trainer.pack.facts["tasks"]])
    for row, description in zip(given, batch.descriptions, strict=True):
        task = trainer.pack.facts["tasks"][trainer.pack.embedding_tasks[description]]
        own = torch.from_numpy(rows.of([task])[0]).float()
        assert (own == row[24:]).all(-1).any()


def test_parts_are_left_out(trainer) -> None:
    """A quarter has the description alone, a quarter the examples, all of unit norm."""
    torch.manual_seed(0)
    batch = trainer._sampler.batch(0)
    given = trainer._noised(trainer._embed(batch).repeat(400, 1))
    described, shown = given[:, :24].any(1), given[:, 24:].any(1)

    assert (described | shown).all()
    assert 0.2 < (described & ~shown).float().mean() < 0.3
    assert 0.2 < (shown & ~described).float().mean() < 0.3
    torch.testing.assert_close(given.norm(dim=1), torch.ones(len(given)))


def test_checkpoint_takes_both_forms(trainer, tmp_path) -> None:
    """A trained checkpoint writes adapters from descriptions alone and beside examples."""
    trainer.run()
    trainer.standard.save(tmp_path / "standard.safetensors")
    with trainer.averaged() as source:
        checkpoint.save_pretrained(
            source,
            tmp_path / "checkpoint",
            card="",
            example_features=tmp_path / "standard.safetensors",
        )
    kept = checkpoint.from_pretrained(tmp_path / "checkpoint").config
    assert (kept.example_features, kept.example_dim) == ("pairs", WIDTH)
    assert Standard.load(checkpoint.example_features(tmp_path / "checkpoint")).width == WIDTH
    generator = AdapterGenerator.load(tmp_path / "checkpoint", base=kept.lora)
    words = WordEncoder().embed(["You are asked to shout."])
    alone = generator.generate(words)[0]
    padded = generator.generate(np.pad(words, ((0, 0), (0, WIDTH))))[0]
    shown = generator.generate(np.pad(words, ((0, 0), (0, WIDTH)), constant_values=0.3))[0]

    assert torch.equal(alone.lora_B["q_proj"], padded.lora_B["q_proj"])
    assert not torch.equal(alone.lora_B["q_proj"], shown.lora_B["q_proj"])
    assert checkpoint.example_features() is None


def test_task_without_rows(pack) -> None:
    """A pack with a task that has no rows is refused by the task's name."""
    with pytest.raises(ConfigError, match=pack.facts["tasks"][0]):
        rows_of(["other"]).of(pack.facts["tasks"])


def test_draws_are_training_examples(corpus) -> None:
    """Draws hold one to four different training examples, the same for the same seed."""
    task = load_tasks(corpus, ["train"])[0]
    known = {(e.text, e.outputs[0]) for e in task.examples("train")}
    sets = draw(task, 40, 0)

    assert all(known.issuperset(pairs) for pairs in sets)
    assert {1, 2, 3, 4} == {len(pairs) for pairs in sets}
    assert sets == draw(task, 40, 0)
    assert sets != draw(task, 40, 1)


def test_command_writes_what_training_reads(corpus, tiny_base, tmp_path, monkeypatch) -> None:
    """Rows of every task and draw come back from the file, of unit norm."""
    monkeypatch.setattr(example_rows, "load_encoder", lambda _: WordEncoder())
    out = tmp_path / "rows.safetensors"
    options = {
        "--corpus": corpus,
        "--splits": "train",
        "--features": "hidden,outputs",
        "--base": tiny_base.path,
        "--draws": 4,
        "--device": "cpu",
        "--out": out,
    }
    example_rows.main([str(word) for pair in options.items() for word in pair])
    rows = ExampleRows.load(out)

    assert rows.tasks == ["shout", "first", "last", "secret"]
    assert rows.rows.shape == (4, 4, rows.standard.width)
    assert rows.standard.sizes[1] == 24
    np.testing.assert_allclose(np.linalg.norm(rows.rows.astype(np.float32), axis=-1), 1, atol=5e-3)


class _Reader:
    """Reads a set as the number of capital letters in its outputs."""

    def read(self, sets):
        return np.array([[sum(map(str.isupper, "".join(o for _, o in s)))] for s in sets], "f4")


def test_systems_show_the_right_examples(corpus) -> None:
    """Own examples are those that few-shot shows; shuffled ones are another task's."""
    tasks = load_tasks(corpus, ["train"])
    drawn = [sample(task, 4, 0) for task in tasks]
    inputs = Inputs(tasks, [e for e, _ in drawn], [s for _, s in drawn], WordEncoder())
    give = {
        name: conditions(SYSTEMS[name], inputs, 0, _Reader())
        for name in ("t2l-examples", "examples-only", "examples-only-shuffled", "t2l-ensemble")
    }

    assert give["t2l-examples"].shape == (4, 25)
    assert not give["examples-only"][:, :24].any()
    # Only "shout" answers in capital letters.
    assert (give["t2l-examples"][:, -1] > 0).tolist() == [True, False, False, False]
    assert not give["examples-only-shuffled"][0].any()
    assert (give["examples-only-shuffled"][:, -1] > 0).sum() == 1
    np.testing.assert_allclose(np.linalg.norm(give["t2l-ensemble"], axis=1), 1, atol=1e-5)
    with pytest.raises(ConfigError, match="--examples"):
        conditions(SYSTEMS["t2l-examples"], inputs, 0, None)


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
