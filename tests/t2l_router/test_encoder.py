import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.encoder import TaskEncoder, normalise
from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models import LocalModel, local, pull

TEXTS = ["Answer the question", "  Translate to French ", "Is 7 prime?", "a " * 3000, "名前", "1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sort the words", "Sort the words."),
        ("  Sort the words\n", "Sort the words."),
        ("Sort the words.", "Sort the words."),
        ("Is it true?", "Is it true?"),
        ("Count to 10", "Count to 10"),
        ("名前", "名前."),
        ("", ""),
        (" ", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    """White space goes, and a full stop follows a letter only."""
    assert expected == normalise(text)


@given(st.text())
def test_normalise_twice(text: str) -> None:
    """Normalising what is normalised changes nothing."""
    assert normalise(text) == normalise(normalise(text))


def test_base_model_is_no_encoder(tiny_base: LocalModel) -> None:
    """A base model is refused as an encoder."""
    with pytest.raises(ModelUnavailable, match=r"no modules\.json"):
        TaskEncoder.load(tiny_base)


@pytest.mark.real
def test_embed(minilm: TaskEncoder) -> None:
    """One unit row per text, in order, whatever the lengths."""
    rows = minilm.embed(TEXTS)

    assert (len(TEXTS), 384) == rows.shape
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for text, row in zip(TEXTS, rows, strict=True):
        np.testing.assert_allclose(minilm.embed([text])[0], row, atol=1e-5)


@pytest.mark.real
def test_embed_many(minilm: TaskEncoder) -> None:
    """More texts than a batch holds keep their order."""
    texts = [f"Count to {number}" for number in range(100)]

    rows = minilm.embed(texts)

    np.testing.assert_allclose(minilm.embed(texts[::-1])[::-1], rows, atol=1e-5)


@pytest.mark.real
def test_embed_nothing(minilm: TaskEncoder) -> None:
    """No texts give no rows of the right width."""
    assert minilm.embed([]).shape == (0, 384)


@pytest.mark.real
def test_embed_equals_the_library(minilm: TaskEncoder) -> None:
    """Our lean call gives what sentence-transformers' own encode gives."""
    expected = minilm._model.encode(
        [normalise(text) for text in TEXTS], normalize_embeddings=True, show_progress_bar=False
    )

    np.testing.assert_allclose(minilm.embed(TEXTS), expected, atol=1e-5)


@pytest.mark.real
def test_meaning_beats_wording(minilm: TaskEncoder) -> None:
    """A paraphrase is nearer than another task."""
    task, paraphrase, other = minilm.embed(
        [
            "Decide whether a film review is positive or negative",
            "Classify the sentiment of a movie review",
            "Translate a sentence from German to English",
        ]
    )

    assert task @ paraphrase > 0.6
    assert task @ other < 0.3


@pytest.mark.real
def test_fingerprint(minilm: TaskEncoder, model_cache: Path, tmp_path: Path) -> None:
    """The fingerprint is pinned, the same for a copy of the files, and changes with the pooling."""
    assert minilm.fingerprint == "9b6430f9ceff49cbdebcce36f0f1886d5e8df02c9ee86c5ade54d8d9f62fb982"
    model = local("all-minilm-l6-v2", cache_dir=model_cache)
    copy = Path(shutil.copytree(model.path, tmp_path / "copy"))
    (copy / "t2l_manifest.json").unlink()
    opened = pull(str(copy), cache_dir=tmp_path / "cache")
    assert minilm.fingerprint == TaskEncoder.load(opened).fingerprint

    pooling = copy / "1_Pooling" / "config.json"
    swapped = pooling.read_text().replace('cls_token": false', 'cls_token": true')
    pooling.write_text(swapped.replace('mean_tokens": true', 'mean_tokens": false'))

    assert minilm.fingerprint != TaskEncoder.load(opened).fingerprint


@pytest.mark.real
def test_damaged_encoder(model_cache: Path, minilm: TaskEncoder, tmp_path: Path) -> None:
    """A damaged encoder is refused."""
    model = local("all-minilm-l6-v2", cache_dir=model_cache)
    copy = Path(shutil.copytree(model.path, tmp_path / "copy"))
    (copy / "tokenizer.json").write_text("{}")

    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json has"):
        TaskEncoder.load(LocalModel(model.name, model.kind, copy, model.fingerprint))
