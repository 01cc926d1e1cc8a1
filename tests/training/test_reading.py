import numpy as np
import pytest
import torch

from t2l_router import checkpoint
from t2l_router.context import ANSWER, DESCRIPTION, FILLER
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.errors import ConfigError
from t2l_router.hypernet import HypernetConfig
from t2l_router.reader import ReaderConfig
from tests.training.packs import WordEncoder, new_trainer
from training import forms, sft
from training.base import load_frozen
from training.conditions import Inputs, conditions
from training.context_sampler import ContextSampler, Shares
from training.context_trainer import ContextTrainer
from training.corpus import load_tasks
from training.forms import Form
from training.renaming import Renamer
from training.sampling import sample
from training.systems import SYSTEMS


@pytest.fixture
def new(tiny_base, pack, tokenizer):
    """Makes trainers of a hypernetwork that reads tokens."""
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    reader = ReaderConfig((0, 1), model.config.hidden_size, width=32, n_heads=4, n_blocks=1)

    def make(workers: int = 0) -> ContextTrainer:
        return new_trainer(
            tiny_base,
            pack,
            source=lambda spec: ContextHypernet(HypernetConfig(spec, 24, "w", "w", reader=reader)),
            trainer=lambda *args: ContextTrainer(
                *args, model=model, tokenizer=tokenizer, shares=Shares(), workers=workers
            ),
            steps=4,
        )

    return make


def sampler(pack, tokenizer, **shares) -> ContextSampler:
    return ContextSampler(
        pack, tokenizer, shares=Shares(**shares), tasks_per_step=3, row_tokens=256, seed=0
    )


def contexts(batch, tokenizer, kind):
    rows = zip(batch.context_ids, batch.context_kinds, strict=True)
    return [tokenizer.decode(ids[kinds == kind]) for ids, kinds in rows]


def targets(batch, row):
    """The first answers of a packed row."""
    width = batch.input_ids.shape[1]
    return batch.labels[batch.label_at // width == row].tolist()


def test_examples_shown_are_of_the_rows_task(pack, tokenizer) -> None:
    """Only the task that shouts shows answers in capitals, and rows have what the shares say."""
    drawn = sampler(pack, tokenizer, shown=1.0, described=0.0, formed=0.0)
    for step in range(5):
        batch = drawn.batch(step)
        said = contexts(batch, tokenizer, ANSWER)
        names = [pack.facts["tasks"][pack.embedding_tasks[i]] for i in batch.descriptions]
        assert [text.isupper() for text in said] == [name == "shout" for name in names]
        assert not batch.embeddings.any()
        assert not any(contexts(batch, tokenizer, DESCRIPTION))


def test_without_examples_there_is_a_description(pack, tokenizer) -> None:
    """A row always has something to read; definitions are among the descriptions."""
    batch = sampler(pack, tokenizer, shown=0.0, words=1.0, definition=1.0).batch(0)

    assert batch.embeddings.any(1).all()
    assert all("rule called" in text for text in contexts(batch, tokenizer, DESCRIPTION))
    assert (batch.context_kinds != ANSWER).all()


def test_labels_are_renamed_everywhere(pack, tokenizer, monkeypatch) -> None:
    """Shown answers, trained answers and the description agree on the new labels."""
    drawn = sampler(pack, tokenizer, renamed=1.0, formed=0.0, shown=0.5, words=1.0)
    for task in drawn._task_ids:
        answers = {drawn._parts(i)[1] for i in drawn._examples[0][task]}
        drawn._labels[task] = {ids: tokenizer.decode(list(ids)) for ids in answers}
    zz = tuple(tokenizer("zz", add_special_tokens=False)["input_ids"])
    monkeypatch.setattr(drawn._renamer, "rename", lambda labels, _: {k: zz + k for k in labels})
    told = shows = 0
    for step in range(6):
        batch = drawn.batch(step)
        shown, texts = (contexts(batch, tokenizer, kind) for kind in (ANSWER, DESCRIPTION))
        for row in range(3):
            assert tokenizer.decode(targets(batch, row)).startswith("zz")
            assert not shown[row] or shown[row].startswith("zz")
            assert shown[row] or "zz" in texts[row]
            shows += bool(shown[row])
            told += not shown[row]
    assert told
    assert shows


def test_answers_take_another_form_everywhere(pack, tokenizer, monkeypatch) -> None:
    """Shown and trained answers have a row's form, and where nothing is shown it is told."""
    drawn = sampler(pack, tokenizer, renamed=0.0, formed=1.0, shown=0.5, words=1.0)
    form = Form(lambda text: f"<{text}>", (" Put it in brackets.", ", bracketed"))
    monkeypatch.setattr(forms, "draw", lambda *_: form)
    told = shows = 0
    for step in range(6):
        batch = drawn.batch(step)
        shown, texts = (contexts(batch, tokenizer, kind) for kind in (ANSWER, DESCRIPTION))
        for row in range(3):
            assert tokenizer.decode(targets(batch, row)).startswith("<")
            assert not shown[row] or shown[row].startswith("<")
            assert shown[row] or texts[row].endswith(form.told)
            shows += bool(shown[row])
            told += not shown[row]
    assert told
    assert shows


def test_forms() -> None:
    """Every form changes an answer and is told in two ways; the answer's words stay in it."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        form = forms.draw(rng, ["tea", "oak"])
        said = form.apply("the Red cat")
        assert said != "the Red cat"
        assert "the red cat" in said.lower()
        assert len(form.told) == 2
        seen.add(said)
    assert len(seen) > 40
    assert '{"label": "the Red cat"}' in seen


def test_shown_labels_differ(pack, tokenizer) -> None:
    """Where a draw covers the labels, the first examples have one each."""
    drawn = sampler(pack, tokenizer)
    task = drawn._task_ids[0]
    rng = np.random.default_rng(0)
    answers = {drawn._parts(i)[1] for i in drawn._examples[0][task]}

    some = drawn._one_of_each(task, rng)[: len(answers)]

    assert {drawn._parts(i)[1] for i in some} == answers


def test_renamer(tokenizer) -> None:
    """A choice among a few has labels; new names are others, one each, and are said."""
    renamer = Renamer(tokenizer, ["red cat blue dog sun moon tea oak"] * 2)
    yes, no = (tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in ("yes", "no"))
    rng = np.random.default_rng(0)
    labels = renamer.labels([yes, no] * 20)

    assert labels == {yes: "yes", no: "no"}
    assert not renamer.labels([(i,) for i in range(40)])
    assert not renamer.labels([yes] * 40)
    for _ in range(20):
        names = renamer.rename(labels, rng)
        assert set(names) == {yes, no}
        assert len(set(names.values())) == 2
        said = tokenizer.decode(renamer.tell(labels, names, rng))
        assert all(tokenizer.decode(list(name)) in said for name in names.values())
    assert "Answer with one of" in tokenizer.decode(renamer.tell(labels, {}, rng))


def test_resumed_run_is_the_same(new, tmp_path) -> None:
    """A run that was stopped goes on as if it had not been, with batches drawn by processes."""
    whole = new()
    whole.run()
    first = new(workers=1)
    first.run(until=2)
    first.save_state(tmp_path / "state.safetensors")
    second = new()
    second.load_state(tmp_path / "state.safetensors")
    second.run()

    for name, parameter in whole.source.named_parameters():
        torch.testing.assert_close(parameter, second.source.get_parameter(name), msg=name)


def test_some_tokens_are_hidden(new) -> None:
    """Noise hides a tenth of the tokens and leaves out no embedding."""
    trainer = new()
    known = trainer._embed(trainer._sampler.batch(0))
    torch.manual_seed(0)
    noised = trainer._noised(known)
    there = known.kinds != FILLER

    assert 0.03 < (noised.kinds[there] == FILLER).float().mean() < 0.2
    assert torch.equal(noised.embeddings.any(1), known.embeddings.any(1))


def test_command(pack, tiny_base, tmp_path) -> None:
    """The command trains one and writes a checkpoint that says what it reads."""
    pack.save(tmp_path / "pack.safetensors")
    words = "--read 0,1 --width 32 --blocks 1 --steps 2 --tasks-per-step 3 --row-tokens 256"
    sft.main(
        [
            *("--pack", str(tmp_path / "pack.safetensors"), "--base", str(tiny_base.path)),
            *("--out", str(tmp_path / "run"), "--device", "cpu", *words.split()),
        ]
    )
    config = checkpoint.from_pretrained(tmp_path / "run" / "checkpoint").config

    assert config.reader.depths == (0, 1)
    assert config.max_delta_norm is not None


class _Reader:
    """Hands on what it is to read."""

    def read(self, embeddings, texts, sets):
        return embeddings, texts, sets


def test_systems_show_the_right_things(corpus) -> None:
    """Own examples are those that few-shot shows; shuffled ones are another task's."""
    tasks = load_tasks(corpus, ["train"])
    drawn = [sample(task, 4, 0) for task in tasks]
    inputs = Inputs(tasks, [e for e, _ in drawn], [s for _, s in drawn], WordEncoder())
    give = {
        name: conditions(SYSTEMS[name], inputs, 0, _Reader())
        for name in (
            "t2l-examples", "examples-only", "examples-only-shuffled", "t2l-ensemble",
            "t2l-definition",
        )
    }  # fmt: skip
    capitals = {
        name: ["".join(o for _, o in pairs).isupper() for pairs in sets]
        for name, (_, _, sets) in give.items()
    }

    # Only "shout" answers in capital letters.
    assert capitals["t2l-examples"] == [True, False, False, False]
    assert not capitals["examples-only-shuffled"][0]
    assert sum(capitals["examples-only-shuffled"]) == 1
    assert not give["examples-only"][0].any()
    assert not any(give["examples-only"][1])
    assert all("rule called" in text for text in give["t2l-definition"][1])
    assert not any(give["t2l-definition"][2])
    np.testing.assert_allclose(np.linalg.norm(give["t2l-ensemble"][0], axis=1), 1, atol=1e-5)
    with pytest.raises(ConfigError, match="--read"):
        conditions(SYSTEMS["t2l-examples"], inputs, 0, None)
