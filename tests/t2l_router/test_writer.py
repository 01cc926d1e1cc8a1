"""Tasks to adapters by a tiny hypernetwork that reads the tokens of a tiny base model."""

import numpy as np
import pytest
import torch

from t2l_router.context import ContextReader
from t2l_router.describe import TaskDescription, of_examples
from t2l_router.errors import InvalidRequest
from t2l_router.generator import AdapterGenerator
from t2l_router.models import load_base
from t2l_router.writer import Writer
from tests.specs import reading_hypernet

PAIRS = (("red cat", "RED CAT"), ("sun", "SUN"))


class Encoder:
    """Embeds every text alike, so that only its tokens tell it."""

    dim, fingerprint = 24, "e" * 64

    def embed(self, texts):
        return np.full((len(texts), self.dim), self.dim**-0.5, np.float32)


@pytest.fixture(scope="module")
def writer(tiny_base):
    hypernet = reading_hypernet(tiny_base)
    generator = AdapterGenerator(hypernet, hypernet_id="tiny", base=hypernet.config.lora)
    model, tokenizer = load_base(tiny_base, dtype=torch.float32, device="cpu")
    reader = ContextReader(model, tokenizer, hypernet.config.reader.depths)
    return Writer(Encoder(), generator, reader)


def test_tokens_tell_tasks_apart(writer):
    """Words, examples and both give adapters of their own, each the same again to the bit."""
    tasks = [
        TaskDescription("Shout it", "body"),
        TaskDescription("Sort it", "body"),
        of_examples("", PAIRS),
        of_examples("", PAIRS[::-1]),
        of_examples("Shout it", PAIRS),
    ]
    ids = [writer.write(task).adapter_id for task in tasks]

    assert len(set(ids)) == len(tasks)
    assert ids == [writer.write(task).adapter_id for task in tasks]


def test_room(writer):
    """What there was no room to read is counted; a task without examples leaves none out."""
    long = of_examples("", [("word " * 60, "x")] * 3)
    read = [
        writer.read(task, writer.embed(task)).n_left_out
        for task in (of_examples("", PAIRS), long, TaskDescription("Shout it", "body"))
    ]

    assert read == [0, 2, 0]


def test_nobody_reads(writer):
    """Without a reader a description's embedding is all that counts, and examples are refused."""
    deaf = Writer(writer.encoder, writer._generator)
    one, two = (deaf.write(TaskDescription(text, "body")) for text in ("Shout it", "Sort it"))

    assert one.adapter_id == two.adapter_id
    with pytest.raises(InvalidRequest, match="one that does is default"):
        deaf.write(of_examples("", PAIRS))
