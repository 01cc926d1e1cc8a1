"""Packing, sampling, training and resuming on a tiny model."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from t2l_router.chat_format import render
from t2l_router.engines.slots import SlotBank
from t2l_router.errors import ConfigError
from t2l_router.lora import LoraWeights
from tests.training.packs import WordEncoder, new_trainer
from training import base
from training.base import load_frozen
from training.baselines import SharedAdapter
from training.corpus import load_tasks
from training.data import Pack, Sampler
from training.prepare import build
from training.prompts import chat
from training.tokenise import Choice


def test_licences_keep_tasks_out(pack) -> None:
    """Tasks whose licence forbids shipping weights aren't in the pack."""
    assert sorted(pack.facts["tasks"]) == ["first", "last", "shout"]


def test_inputs_may_stand_for_descriptions(corpus, tokenizer) -> None:
    """Each task is then embedded by inputs of its own training examples."""
    tasks = load_tasks(corpus, ["train"])
    built = build(
        tasks,
        tokenizer,
        WordEncoder(),
        facts={},
        choice=Choice(instructed=2),
        descriptions=4,
        by_inputs=True,
    )
    for index, task in enumerate(tasks):
        own = {example.text for example in task.examples("train")}
        rows = np.flatnonzero(built.embedding_tasks == index)
        texts = [built.facts["descriptions"][row].removesuffix(".") for row in rows]
        assert len(texts) == 4
        assert own.issuperset(texts)
    assert not built.terse.any()


def test_pack_round_trip(pack, tmp_path) -> None:
    """A pack is read back as it was, embeddings in half precision."""
    pack.save(tmp_path / "p")

    back = Pack.load(tmp_path / "p")

    assert np.array_equal(back.tokens, pack.tokens)
    assert back.facts == pack.facts
    np.testing.assert_allclose(back.embeddings, pack.embeddings, atol=1e-3)


def test_training_and_serving_render_the_same_tokens(pack, tokenizer, corpus) -> None:
    """Each training prompt is, token by token, what the server would send to the model."""
    tasks = {task.name: task for task in load_tasks(corpus, ["train"])}
    served = {
        tuple(render(tokenizer, chat(example.text))): (name, example.outputs[0])
        for name, task in tasks.items()
        for example in task.examples("train")
    }
    for i in np.flatnonzero(pack.kinds == 0):
        ids = pack.tokens[pack.starts[i] : pack.starts[i + 1]].tolist()
        prompt, answer = ids[: -pack.answers[i]], ids[-pack.answers[i] :]
        assert tuple(prompt) in served
        assert answer[-1] == tokenizer.eos_token_id
        rule = tasks[pack.facts["tasks"][pack.tasks[i]]]
        text = tokenizer.decode(answer[:-1])
        assert text in {example.outputs[0] for example in rule.examples("train")}


def test_batches_depend_on_seed_and_step_only(pack) -> None:
    """The same step of the same run is the same batch; another step or seed is another."""

    def draw(seed: int, step: int) -> list[int]:
        sampler = Sampler(pack, tasks_per_step=3, row_tokens=200, seed=seed)
        return sampler.batch(step).input_ids.flatten().tolist()

    assert draw(0, 5) == draw(0, 5)
    assert draw(0, 5) != draw(0, 6)
    assert draw(0, 5) != draw(1, 5)


def test_batch_labels_are_the_answers(pack, tokenizer) -> None:
    """Labels follow their positions, and tasks, then examples, weigh the same."""
    batch = Sampler(pack, tasks_per_step=3, row_tokens=256).batch(0)
    flat = batch.input_ids.flatten()

    assert torch.equal(flat[batch.label_at + 1], batch.labels)
    assert batch.weights.sum().item() == pytest.approx(1)
    per_task = [batch.weights[batch.label_at // 256 == row].sum().item() for row in range(3)]
    assert per_task == pytest.approx([1 / 3] * 3)
    assert (batch.labels == tokenizer.eos_token_id).sum() == (batch.position_ids == 0).sum() - (
        3 - sum((batch.position_ids[row] == 0).sum() == 0 for row in range(3))
    )


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
def test_packed_examples_do_not_see_each_other(fixture, pack, request) -> None:
    """The logits of a packed example are those of the example in a row of its own."""
    trainer = new_trainer(request.getfixturevalue(fixture), pack)
    batch = trainer._sampler.batch(0)
    vocabulary = trainer.base.model.config.vocab_size
    batch = dataclasses.replace(batch, input_ids=batch.input_ids % vocabulary)
    base = trainer.base.eval()
    pairs = trainer.source.eval()(batch.embeddings)
    borders = [*torch.flatten((batch.position_ids[0] == 0).nonzero()).tolist(), 256]
    assert len(borders) > 3

    packed = base(pairs, batch.input_ids, batch.position_ids, torch.arange(256))
    for start, end in pairwise(borders[:-1]):
        ids = batch.input_ids[:1, start:end]
        one = {name: type(pair)(*(t[:1] for t in pair)) for name, pair in pairs.items()}
        alone = base(one, ids, batch.position_ids[:1, start:end], torch.arange(end - start))
        torch.testing.assert_close(packed[start:end], alone, rtol=1e-4, atol=1e-4)


def test_training_forward_equals_serving_forward(tiny_base, pack) -> None:
    """What is trained is what the slot bank serves."""
    trainer = new_trainer(tiny_base, pack, source=SharedAdapter)
    for tensor in trainer.source.lora_B.values():
        torch.nn.init.normal_(tensor, std=0.1)
    ids = torch.arange(40)[None]
    base = trainer.base.eval()
    trained = base(trainer.source(torch.zeros(1, 24)), ids, ids, torch.arange(40))

    weights = trainer.source.weights()
    exact = LoraWeights(
        weights.spec, *({n: t.detach() for n, t in side.items()} for side in (
            trainer.source.lora_A, trainer.source.lora_B))
    )  # fmt: skip
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    bank = SlotBank(model, weights.spec, 1)
    bank.insert(1, exact)
    with bank.rows([1]), torch.no_grad():
        served = model(input_ids=ids).logits[0]
    torch.testing.assert_close(trained, served, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", [None, SharedAdapter])
def test_resume_is_bit_equal(tiny_base, pack, tmp_path, source) -> None:
    """A run that stopped, was saved and resumed ends in the very same weights."""
    whole = new_trainer(tiny_base, pack, source=source)
    whole.run()
    part = new_trainer(tiny_base, pack, source=source)
    part.run(until=5)
    part.save_state(tmp_path / "state")
    torch.manual_seed(99)
    resumed = new_trainer(tiny_base, pack, source=source)
    resumed.load_state(tmp_path / "state")
    resumed.run()

    assert resumed.step == whole.step == 12
    for name, parameter in whole.source.named_parameters():
        assert torch.equal(parameter, dict(resumed.source.named_parameters())[name]), name
        assert torch.equal(whole._averaged[name], resumed._averaged[name]), name
    assert resumed.history[-1] == whole.history[-1]


def test_resume_refuses_another_recipe(tiny_base, pack, tmp_path) -> None:
    """A state of another recipe is an error that shows where they differ."""
    trainer = new_trainer(tiny_base, pack)
    trainer.run(until=1)
    trainer.save_state(tmp_path / "state")

    with pytest.raises(ConfigError, match=r"recipe \(lr 0\.001, not 0\.0001\)"):
        new_trainer(tiny_base, pack, lr=1e-4).load_state(tmp_path / "state")


@pytest.mark.slow
def test_training_learns_to_read_the_description(tiny_base, pack) -> None:
    """After a short run the right description gives a lower loss than another task's."""
    # A random base has no skills to steer by attention: the MLPs must carry the answers. Its tied
    # embeddings of spread 0.02 keep logits within 0.64, so the loss can't fall below about 5.
    trainer = new_trainer(
        tiny_base,
        pack,
        targets=("down_proj", "o_proj", "up_proj"),
        steps=300,
        lr=3e-3,
        dropout=0.0,
        plain=1.0,
        ema=0.9,
    )
    batch = trainer._sampler.batch(1000)
    before = trainer._loss(batch, batch.embeddings).item()
    trainer.run()

    with trainer.averaged(), torch.no_grad():
        right = trainer._loss(batch, batch.embeddings).item()
        wrong = trainer._loss(batch, batch.embeddings.roll(1, 0)).item()
    assert right < before - 0.15
    assert wrong > right + 0.02


def test_recipe_is_recorded(tiny_base, pack) -> None:
    """Every number of the recipe can be read back from a trainer."""
    assert dataclasses.asdict(new_trainer(tiny_base, pack).recipe)["steps"] == 12


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
def test_losses_in_parts_are_the_same(fixture, pack, request, monkeypatch) -> None:
    """A wide vocabulary's logits are made part by part: the same loss and the same gradients."""
    trainer = new_trainer(request.getfixturevalue(fixture), pack, dropout=0.0)
    vocabulary = trainer.base.model.config.vocab_size
    batch = trainer._sampler.batch(0)
    batch = dataclasses.replace(
        batch, input_ids=batch.input_ids % vocabulary, labels=batch.labels % vocabulary
    )
    trainer.source.eval()
    found = []
    for most in (base.MOST_LOGITS, 7 * vocabulary):
        monkeypatch.setattr(base, "MOST_LOGITS", most)
        trainer.source.zero_grad()
        loss = trainer._loss(batch, batch.embeddings)
        loss.backward()
        gradients = [p.grad.clone() for p in trainer.source.parameters() if p.grad is not None]
        found.append((loss.detach(), gradients))

    assert len(batch.labels) > 7
    torch.testing.assert_close(found[0], found[1])
