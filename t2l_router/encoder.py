"""Task descriptions become task embeddings: unit vectors that a hypernetwork can read."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2l_router.models import LocalModel, verify
from t2l_router.models.load import no_progress_bars

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


def normalise(text: str) -> str:
    """
    Spell a task description the way hypernetworks are trained on it.

    Semantics:
        Surrounding white space goes; a "." is appended if the last character is a letter.

    Source:
        Text-to-LoRA's ``embed_texts``.
    """
    text = text.strip()
    return f"{text}." if text and text[-1].isalpha() else text


class TaskEncoder:
    """
    A sentence-transformers model with its own pooling and maximum length, on the CPU.

    Args:
        model: The loaded model.
        fingerprint: Identity of weights, pooling, text normalisation and dimension together;
            embeddings may be compared only if their fingerprints are equal.
    """

    def __init__(self, model: "SentenceTransformer", *, fingerprint: str) -> None:
        self._model = model
        self.fingerprint = fingerprint
        dim = model.get_embedding_dimension()
        assert dim is not None, "a sentence-transformers model knows its dimension"
        self.dim = dim

    @classmethod
    def load(cls, model: LocalModel, *, device: str = "cpu") -> "TaskEncoder":
        """
        Load an encoder from the disk alone, every byte verified.

        Raises:
            ModelCorrupt: A file isn't what it was when the model was pulled.
        """
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - slow to import

        verify(model)
        with no_progress_bars():
            loaded = SentenceTransformer(
                str(model.path), device=device, local_files_only=True, trust_remote_code=False
            )
        facts = {
            "model": model.fingerprint,
            "modules": [repr(module) for module in list(loaded)[1:]],
            "max_tokens": loaded.max_seq_length,
            "normalisation": "strip, full stop after a letter, L2",
            "dim": loaded.get_embedding_dimension(),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cls(loaded.eval(), fingerprint=digest)

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """
        Embed a batch of task descriptions.

        Args:
            texts: Descriptions as users wrote them; see `normalise`.

        Returns:
            ``[N, D]`` float32, rows of L2 norm 1, in the order of *texts*.
        """
        embeddings = self._model.encode(
            [normalise(text) for text in texts],
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(embeddings, dtype=np.float32).reshape(len(texts), self.dim)
