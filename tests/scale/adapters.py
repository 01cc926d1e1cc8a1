"""Adapters that the shipped hypernetwork writes, many at once, and what they should answer."""

import itertools
from pathlib import Path

import torch

from adapters_store.blobs import LocalBlobs
from adapters_store.identity import AdapterId
from adapters_store.peft_files import AdapterFiles
from t2l_router.bootstrap import load_engine_model, load_writing
from t2l_router.config import Settings
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.local import EngineLimits, LocalEngine
from t2l_router.models import LocalModel
from t2l_router.storage import LoraTensors, adapter_files
from tests.e2e.program import HYPERNET

TASKS = (
    "Translate the text into {}",
    "Name one thing that {} is known for",
    "Write a question about {}",
    "Say whether the text is about {}, yes or no",
    "Explain {} to a child",
    "Give a title that mentions {}",
)
TOPICS = (
    "French", "German", "music", "history", "football", "cooking", "physics", "medicine", "law",
    "gardens", "poetry", "travel", "money", "animals", "weather", "chess", "the sea", "film",
    "space", "fashion", "painting", "farming", "school", "engines", "religion", "language",
    "sleep", "numbers", "houses", "trees", "rivers", "birds", "bread", "wine", "cities", "trains",
    "ships", "letters", "games", "clocks", "glass", "gold", "rain", "fire", "stones", "dreams",
    "silence", "friendship", "war", "peace",
)  # fmt: skip


def descriptions(n: int) -> list[str]:
    """Different task descriptions, neighbours unlike each other."""
    texts = [task.format(topic) for topic, task in itertools.product(TOPICS, TASKS)]
    assert n <= len(texts)
    return texts[:n]


class Writer:
    """
    The shipped hypernetwork, and a local engine in float32 to compare with.

    Args:
        settings: Where the models are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writing = load_writing(settings.model_copy(update={"hypernet": HYPERNET}))
        self._tensors = LoraTensors(self._writing.generator.spec)

    @property
    def base(self) -> LocalModel:
        """The base model."""
        return self._writing.base

    def files(self, description: str) -> AdapterFiles:
        """The files of the adapter for a description."""
        (weights,) = self._writing.generator.generate(self._writing.encoder.embed([description]))
        return adapter_files(weights).canonical()

    def publish(self, root: Path, n: int) -> list[AdapterId]:
        """Write *n* adapters into the blobs at *root*."""
        blobs = LocalBlobs(root)
        texts = descriptions(n)
        ids = []
        for start in range(0, n, 16):
            batch = self._writing.encoder.embed(texts[start : start + 16])
            for weights in self._writing.generator.generate(batch):
                files = adapter_files(weights).canonical()
                ids.append(files.adapter_id(self.base.fingerprint))
                blobs.put(ids[-1], self.base.fingerprint, files)
        assert len(set(ids)) == n, "two descriptions have one adapter"
        return ids

    def read(self, directory: Path) -> AdapterRef:
        """The adapter of a PEFT directory."""
        weights = self._tensors.read(directory)
        return AdapterRef(weights.adapter_id, weights)

    def engine(self, dtype: str = "float32") -> LocalEngine:
        """A local engine that computes in *dtype*."""
        torch.set_num_threads(1)
        settings = self._settings.model_copy(update={"dtype": dtype})
        model, tokenizer = load_engine_model(self.base, settings)
        spec = self._writing.generator.spec
        return LocalEngine(model, tokenizer, spec=spec, limits=EngineLimits(max_running=1))
