"""Small trained heads over the encoder's embeddings that read user turns; numpy alone runs them."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t2l_router.errors import CheckpointMismatch, ModelCorrupt
from t2l_router.topics import Judge, Matrix, Vector
from t2l_router.turns import wording

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "2"
FILE = "heads.safetensors"
EMBEDDING_WEIGHT = np.float32(4)  # against the wording's numbers, which are larger


@dataclass(frozen=True, slots=True)
class Layers:
    """
    A perceptron: linear, or with one hidden layer of GELU.

    Args:
        weights: ``[d_in, d_out]`` each.
        biases: ``[d_out]`` each.
    """

    weights: tuple[Matrix, ...]
    biases: tuple[Vector, ...]

    def __call__(self, rows: Matrix) -> Matrix:
        """Map ``[N, d_in]`` to ``[N, d_out]``."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = rows @ weight + bias
            if i + 1 < len(self.weights):
                rows = gelu(rows)
        return rows


def gelu(x: Matrix) -> Matrix:
    """The tanh form of GELU."""
    inner = np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)), np.float32)


def softmax(logits: Matrix) -> Matrix:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


@dataclass(frozen=True, slots=True)
class Heads:
    """
    Everything trained that inference needs besides the encoder.

    Args:
        acts: Embedding and wording -> what the turn is, logits of `turns.ACTS`.
        states: Embedding and wording of a sentence -> logit that it states a task.
        to_task: Embedding of a turn -> what to add to reach its task's description.
        which: Embedding and wording -> which of *tasks* it is, logits; one more says none of them.
        judge: Weighs whether a turn goes on with the topic.
        tasks: Descriptions of common tasks, to choose among.
        task_embeddings: ``[N, D]`` of unit L2 norm, theirs.
        task_bias: ``[N]``: how near any turn is to each of them, which says nothing.
        encoder: Fingerprint of the encoder whose embeddings these heads read.
        wide: Numbers of the tasks that hold different ones and so stand for no request.
    """

    acts: Layers
    states: Layers
    to_task: Layers
    which: Layers
    judge: Judge
    tasks: tuple[str, ...]
    task_embeddings: Matrix
    task_bias: Vector
    encoder: str
    wide: frozenset[int] = frozenset()

    def read_acts(self, embeddings: Matrix, texts: list[str]) -> Matrix:
        """Give ``[N, len(ACTS)]`` probabilities."""
        return softmax(self.acts(joined(embeddings, texts)))

    def states_task(self, embeddings: Matrix, texts: list[str]) -> Vector:
        """Give ``[N]`` probabilities that a system prompt's sentence states a task."""
        logits = self.states(joined(embeddings, texts))[:, 0]
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    def which_task(self, embeddings: Matrix, texts: list[str]) -> Matrix:
        """Give ``[N, len(tasks)]`` probabilities."""
        return softmax(self.which(joined(embeddings, texts)))[:, : len(self.tasks)]

    def in_task_space(self, embeddings: Matrix) -> Matrix:
        """Move ``[N, D]`` turns to where their tasks' descriptions are; unit L2 norm."""
        moved = embeddings + self.to_task(embeddings)
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)

    def save(self, path: Path) -> None:
        """Write all of it as half-precision safetensors."""
        tensors: dict[str, NDArray[np.generic]] = {
            "task_embeddings": self.task_embeddings,
            "task_bias": self.task_bias,
            "judge.mean": self.judge.mean,
            "judge.deviation": self.judge.deviation,
        }
        layers = {"acts": self.acts, "states": self.states, "to_task": self.to_task}
        layers["which"] = self.which
        layers["judge"] = Layers(self.judge.weights, self.judge.biases)
        for name, part in layers.items():
            for i, (weight, bias) in enumerate(zip(part.weights, part.biases, strict=True)):
                tensors[f"{name}.{i}.weight"], tensors[f"{name}.{i}.bias"] = weight, bias
        halved = {name: np.ascontiguousarray(t.astype(np.float16)) for name, t in tensors.items()}
        about = {"format": FORMAT, "encoder": self.encoder, "tasks": json.dumps(self.tasks)}
        about["wide"] = json.dumps(sorted(self.wide))
        save_file(halved, path, metadata=about)


def joined(embeddings: Matrix, texts: list[str]) -> Matrix:
    """Give ``[N, D + wording]``: what `Heads.acts` and `Heads.states` read."""
    return np.hstack([embeddings * EMBEDDING_WEIGHT, np.stack([wording(text) for text in texts])])


def shipped() -> Path:
    """Where the heads for the default encoder are."""
    return Path(str(files("t2l_router") / "checkpoints" / "inference-all-minilm-l6-v2" / FILE))


def load(path: Path | None = None, *, encoder: str) -> Heads:
    """
    Load heads.

    Args:
        path: Their file; by default the ones that ship with t2l.
        encoder: Fingerprint of the encoder they are to read.

    Raises:
        CheckpointMismatch: They read another encoder.
        ModelCorrupt: The file can't be read.
    """
    path = path or shipped()
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 - no mapping
        if about.get("format") != FORMAT:
            raise ModelCorrupt(f"{path}: written by another version of t2l; get a newer t2l")
        tasks = tuple(json.loads(about["tasks"]))
        judge = _layers(tensors, "judge")
        heads = Heads(
            _layers(tensors, "acts"),
            _layers(tensors, "states"),
            _layers(tensors, "to_task"),
            _layers(tensors, "which"),
            Judge(tensors["judge.mean"], tensors["judge.deviation"], judge.weights, judge.biases),
            tasks,
            tensors["task_embeddings"],
            tensors["task_bias"],
            about["encoder"],
            frozenset(json.loads(about.get("wide", "[]"))),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelCorrupt(f"{path}: not the heads of inference: {error!r}") from None
    if heads.encoder != encoder:
        raise CheckpointMismatch(
            f"the heads in {path} read another encoder ({heads.encoder[:12]}, not {encoder[:12]}); "
            "train others with: python -m training.infer_head, or set inference to off"
        )
    return heads


def _layers(tensors: dict[str, Matrix], name: str) -> Layers:
    depth = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in tensors)
    if not depth:
        raise KeyError(name)
    return Layers(
        tuple(tensors[f"{name}.{i}.weight"] for i in range(depth)),
        tuple(tensors[f"{name}.{i}.bias"] for i in range(depth)),
    )
