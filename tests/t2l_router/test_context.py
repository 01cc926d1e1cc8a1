import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from t2l_router.chat_format import render
from t2l_router.context import (
    ANSWER,
    BEFORE_ANSWER,
    CONTEXT_MOST,
    DESCRIPTION,
    EXAMPLES_MOST,
    FILLER,
    ContextReader,
    describe,
    lay_out,
    show,
    states_of,
)
from training.base import load_frozen

PAIRS = [("red cat", "RED CAT"), ("blue dog", "BLUE DOG"), ("sun", "SUN")]


@pytest.fixture(scope="module")
def model(tiny_base):
    return load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base.path)


def test_examples_are_a_conversation(tokenizer) -> None:
    """Examples are the tokens of the same turns in a chat, and each answer's are marked."""
    segment = show(tokenizer, PAIRS)
    turns = [
        {"role": role, "content": text}
        for pair in PAIRS
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    last = tokenizer(PAIRS[-1][1], add_special_tokens=False)["input_ids"]
    kinds = np.array(segment.kinds)

    assert render(tokenizer, turns[:-1]) + last == segment.ids
    assert (kinds == BEFORE_ANSWER).sum() == 3
    marked = zip(segment.ids, kinds, strict=True)
    said = tokenizer.decode([i for i, kind in marked if kind == ANSWER])
    assert said.replace(" ", "") == "REDCATBLUEDOGSUN"


@pytest.mark.parametrize("words", [20, 2000])
def test_long_examples_fit(tokenizer, words: int) -> None:
    """However long, the first example stays, with its answer, and all fit into a row."""
    pairs = [("word " * words, "x" * words) for _ in range(20)]
    segment = show(tokenizer, pairs)

    assert len(segment.ids) == len(segment.kinds) <= EXAMPLES_MOST
    assert ANSWER in segment.kinds
    text = describe(tokenizer, "word " * words)
    assert lay_out([[text, segment]])[0].shape[1] <= CONTEXT_MOST


def test_empty_output(tokenizer) -> None:
    """An empty output is still an example."""
    assert ANSWER in show(tokenizer, [("red", "")]).kinds


def test_states_are_the_models_whoever_is_beside(tokenizer, model) -> None:
    """A segment's hidden states are the model's, with others before it, behind it and below."""
    segments = [describe(tokenizer, "Put it in capitals."), show(tokenizer, PAIRS)]
    ids, positions, kinds = lay_out([segments, segments[:1]])
    read = states_of(model, ids, positions, (0, 2))
    at = len(segments[0].ids)

    for row, start, segment in ((0, 0, segments[0]), (0, at, segments[1]), (1, 0, segments[0])):
        states = model.get_decoder()(
            input_ids=torch.tensor([segment.ids]), output_hidden_states=True
        ).hidden_states
        expected = torch.cat([states[0], states[2]], -1)[0]
        actual = read[row, start : start + len(segment.ids)]
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert (kinds[1, at:] == FILLER).all()
    assert (kinds[:, 1:at] == DESCRIPTION).all()


def test_reader_takes_what_there_is(tokenizer, model) -> None:
    """Description, examples, both or neither: a row each."""
    reader = ContextReader(model, tokenizer, (0, 2))
    reading = reader.read(np.zeros((4, 8), np.float32), ["a", "", "a", ""], [[], PAIRS, PAIRS, []])
    there = [set(row.tolist()) - {FILLER} for row in reading.kinds]

    assert [DESCRIPTION in kinds for kinds in there] == [True, False, True, False]
    assert [ANSWER in kinds for kinds in there] == [False, True, True, False]
    assert len(reading[[1, 2]]) == 2
    empty = reader.read(np.zeros((1, 8), np.float32), [""], [[]])
    assert empty.states.shape == (1, 0, 2 * model.config.hidden_size)
