"""Task encoders of a causal language model."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from t2l_router import models
from t2l_router.encoder import TaskEncoder
from t2l_router.errors import ConfigError
from training.text_encoder import make


@pytest.mark.parametrize(("pooling", "at"), [("lasttoken", -1), ("cls", 0)])
def test_embedding_is_the_token_that_was_asked_for(tiny_base, tmp_path, pooling, at) -> None:
    """Also in a batch with a longer text: it is the model's hidden state there, made unit norm."""
    make(tiny_base.path, tmp_path / "encoder", pooling=pooling)
    pulled = models.pull(str(tmp_path / "encoder"), cache_dir=tmp_path / "cache")
    texts = ["Sort words.", "Put all of the words that are given in the order of the alphabet."]

    rows = TaskEncoder.load(pulled).embed(texts)

    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path)
    model = AutoModel.from_pretrained(tiny_base.path, dtype=torch.float32)
    for text, found in zip(texts, rows, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, at]
        expected = (hidden / hidden.norm()).numpy()
        assert np.dot(expected, found) == pytest.approx(1, abs=1e-4)


def test_nothing_is_overwritten(tiny_base, tmp_path) -> None:
    """A folder that exists is an error."""
    with pytest.raises(ConfigError, match="exists already"):
        make(tiny_base.path, tmp_path, pooling="mean")
