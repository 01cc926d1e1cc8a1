"""A pack of the toy tasks and trainers of a tiny model on it."""

import numpy as np
import torch

from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec
from training.base import AdaptedBase, load_frozen
from training.recipe import Recipe
from training.trainer import Trainer


class WordEncoder:
    """Embeds a text by the hashes of its words: the same words, the same direction."""

    fingerprint = "words"

    def embed(self, texts):
        rows = np.zeros((len(texts), 24), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().strip(".").split():
                row[sum(word.encode()) % 24] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def new_trainer(
    tiny_base, pack, *, source=None, targets=("q_proj", "v_proj"), trainer=Trainer, **changes
) -> Trainer:
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    spec = LoraSpec.from_model(
        model, base_model="tiny", base_fingerprint="f", rank=4, targets=targets
    )
    torch.manual_seed(0)
    width = pack.embeddings.shape[1]
    hypernet = source(spec) if source else Hypernet(HypernetConfig(spec, width, "w", "w"))
    recipe = Recipe(**{"steps": 12, "tasks_per_step": 3, "row_tokens": 256, **changes})
    return trainer(AdaptedBase(model, spec, dropout=recipe.dropout), hypernet, pack, recipe)
