"""Task descriptions become task embeddings: unit vectors that a hypernetwork can read."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2l_router.errors import ModelUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from t2l_router.models import LocalModel

_BATCH = 32
_NORMALISATION = "strip; a full stop after a letter; L2"


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
    A sentence-transformers model with its own pooling, prompt and maximum length.

    Args:
        model: The loaded model, in evaluation mode.
        fingerprint: Identity of weights, pooling, text normalisation and dimension together;
            embeddings may be compared only if their fingerprints are equal.
    """

    def __init__(self, model: "SentenceTransformer", *, fingerprint: str) -> None:
        self._model = model
        self._device = model.device
        self._prompt = _prompt(model)
        self.fingerprint = fingerprint
        self.dim = _dim(model)

    @classmethod
    def load(
        cls, model: "LocalModel", *, device: str = "cpu", lora: Path | None = None
    ) -> "TaskEncoder":
        """
        Load an encoder from the disk alone, every byte verified.

        Args:
            model: What `models.pull` or `models.local` gave.
            device: ``cpu`` or ``cuda[:n]``.
            lora: What was trained of it along with a hypernetwork; see `encoder_lora`.

        Raises:
            ModelUnavailable: The model is not an encoder.
            ModelCorrupt: A file isn't what it was when the model was pulled.
        """
        # Lazy: slow to import, and machines that only train have no model cache.
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        from t2l_router.models import verify  # noqa: PLC0415
        from t2l_router.models.load import no_progress_bars  # noqa: PLC0415

        if model.kind != "encoder":
            raise ModelUnavailable(
                f"{model.name} is no encoder: it has no modules.json, as sentence-transformers "
                "models have"
            )
        verify(model)
        with no_progress_bars():
            loaded = SentenceTransformer(
                str(model.path), device=device, local_files_only=True, trust_remote_code=False
            )
        fingerprint = _fingerprint(model, loaded)
        if lora is not None:
            from t2l_router import encoder_lora  # noqa: PLC0415 - imports torch

            encoder_lora.merge(loaded, lora)
            fingerprint = encoder_lora.fingerprint(fingerprint, lora)
        if loaded.device.type == "cpu":
            from t2l_router import packed  # noqa: PLC0415 - imports torch

            packed.pack(loaded)
        return cls(loaded.eval(), fingerprint=fingerprint)

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """
        Embed a batch of task descriptions.

        Args:
            texts: Descriptions as users wrote them; see `normalise`.

        Returns:
            ``[N, D]`` float32, rows of L2 norm 1, in the order of *texts*.
        """
        import torch  # noqa: PLC0415 - `load` has paid for it

        embeddings = np.empty((len(texts), self.dim), dtype=np.float32)
        # Alike lengths side by side: a batch is padded to its longest text.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(texts), _BATCH):
            batch = order[start : start + _BATCH]
            # Not `SentenceTransformer.encode`: it walks through all parameters at each call to
            # see where they are, which costs a fifth of the time of one short text.
            with torch.inference_mode():
                features = self._model.preprocess(
                    [normalise(texts[index]) for index in batch], prompt=self._prompt
                )
                moved = {
                    key: value.to(self._device) if isinstance(value, torch.Tensor) else value
                    for key, value in features.items()
                }
                rows = self._model(moved)["sentence_embedding"].float()
                unit = torch.nn.functional.normalize(rows, dim=1)
            embeddings[batch] = unit.cpu().numpy()
        return embeddings

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` reads of the texts, without those that only fill batches up."""
        features = self._model.preprocess([normalise(text) for text in texts], prompt=self._prompt)
        return int(features["attention_mask"].sum())


def _prompt(model: "SentenceTransformer") -> str | None:
    name = model.default_prompt_name
    return None if name is None else model.prompts[name]


def _dim(model: "SentenceTransformer") -> int:
    dim = model.get_embedding_dimension()
    assert dim is not None, "a sentence-transformers model knows its dimension"
    return dim


def _fingerprint(model: "LocalModel", loaded: "SentenceTransformer") -> str:
    from t2l_router.models.manifest import sha256_file  # noqa: PLC0415 - as in `load`

    # What the library says about itself changes with its version; the files don't.
    modules = json.loads((model.path / "modules.json").read_bytes())
    folders = [model.path / module["path"] for module in modules if module["path"]]
    steps = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = {
        "model": model.fingerprint,
        "modules": [module["type"] for module in modules],
        "steps": {_relative(path, model.path): sha256_file(path) for path in steps},
        "prompt": _prompt(loaded),
        "max_tokens": loaded.max_seq_length,
        "normalisation": _NORMALISATION,
        "dim": _dim(loaded),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
