import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from t2l_router.errors import ConfigError, ModelCorrupt
from t2l_router.example_features import ExampleReader, Standard, compose, hidden, shown, unit
from tests.training.packs import WordEncoder
from training.base import load_frozen

SETS = [
    [("red cat", "RED CAT"), ("blue dog", "BLUE DOG"), ("sun", "SUN")],
    [("tea oak moon", "tea")],
]


@pytest.fixture(scope="module")
def model(tiny_base):
    return load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base.path)


def standard(kinds, sizes) -> Standard:
    n = sum(sizes)
    mean = np.linspace(-1, 1, n, dtype=np.float32)
    return Standard(kinds, sizes, mean, np.full(n, 2, np.float32))


def test_answers_are_found(tokenizer) -> None:
    """The spans hold the outputs' tokens, in order."""
    conversation = shown(tokenizer, SETS[0])
    texts = [tokenizer.decode(conversation.ids[s:e]) for s, e in conversation.answers]

    assert [output for _, output in SETS[0]] == texts
    assert "RED CAT" in tokenizer.decode(conversation.ids[: conversation.answers[1][0]])


def test_long_examples_are_cut(tokenizer) -> None:
    """Examples longer than the reader's limit keep the last answers."""
    pairs = [("word " * 400, f"answer {i}") for i in range(12)]
    conversation = shown(tokenizer, pairs)

    assert len(conversation.ids) <= 2048
    assert tokenizer.decode(conversation.ids[slice(*conversation.answers[-1])]) == "answer 11"
    assert all(0 < start < end <= 2048 for start, end in conversation.answers)


def test_empty_output(tokenizer, model) -> None:
    """An empty output still has features."""
    assert np.isfinite(hidden(model, [shown(tokenizer, [("red", "")])])).all()


def test_hidden_is_the_models(tokenizer, model) -> None:
    """Features are the model's hidden states before and in the answers, whoever is beside."""
    conversations = [shown(tokenizer, pairs) for pairs in SETS]
    both = hidden(model, conversations)

    for row, conversation in zip(both, conversations, strict=True):
        states = model.get_decoder()(
            input_ids=torch.tensor([conversation.ids]), output_hidden_states=True
        ).hidden_states
        last = len(states) - 1
        expected = []
        for layer in [states[round(last * third / 3)][0] for third in range(4)]:
            spans = conversation.answers
            expected.append(torch.stack([layer[s - 1] for s, _ in spans]).mean(0))
            expected.append(torch.stack([layer[s:e].mean(0) for s, e in spans]).mean(0))
        np.testing.assert_allclose(row, torch.cat(expected).numpy(), atol=1e-4)


def test_reads_several_kinds(tokenizer, model) -> None:
    """Each kind weighs the same, and rows have unit norm."""
    kinds, sizes = ("hidden", "outputs"), (8 * model.config.hidden_size, 24)
    reader = ExampleReader(standard(kinds, sizes), WordEncoder(), model, tokenizer)
    rows = reader.read(SETS)

    assert (2, sum(sizes)) == rows.shape
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows[:, -24:], axis=1), 0.5**0.5, atol=1e-5)


def test_inputs_only_ignore_outputs(tokenizer, model) -> None:
    """The kind for unlabelled inputs doesn't see outputs; the others do."""
    changed = [[(text, "no") for text, _ in pairs] for pairs in SETS]
    same = {}
    for kind in ("inputs", "pairs", "outputs"):
        reader = ExampleReader(standard((kind,), (24,)), WordEncoder(), model, tokenizer)
        same[kind] = np.allclose(reader.read(SETS), reader.read(changed))

    assert same == {"inputs": True, "pairs": False, "outputs": False}


def test_no_example(tokenizer, model) -> None:
    """A set without examples is refused in words."""
    reader = ExampleReader(standard(("inputs",), (24,)), WordEncoder(), model, tokenizer)
    with pytest.raises(ConfigError, match="give at least one input"):
        reader.read([[]])


def test_standard_survives_the_disk(tmp_path) -> None:
    """What was saved gives the same rows after loading."""
    kept = standard(("pairs",), (24,))
    kept.save(tmp_path / "s.safetensors")
    loaded = Standard.load(tmp_path / "s.safetensors")
    raw = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)

    assert loaded.width == 24
    np.testing.assert_array_equal(kept.apply(raw), loaded.apply(raw))


def test_broken_file_says_so(tmp_path) -> None:
    """A file that is none names itself and what to do."""
    (tmp_path / "s.safetensors").write_bytes(b"none")
    with pytest.raises(ModelCorrupt, match="get the checkpoint anew"):
        Standard.load(tmp_path / "s.safetensors")


def test_parts_side_by_side() -> None:
    """Both parts weigh the same; one alone has all the weight, none is zero."""
    one, none = unit(np.ones((1, 4), np.float32)), np.zeros((1, 4), np.float32)

    np.testing.assert_allclose(compose(one, one)[0], 8**-0.5, atol=1e-6)
    np.testing.assert_allclose(compose(one, none)[0], [0.5] * 4 + [0] * 4, atol=1e-6)
    assert not compose(none, none).any()
