"""What the adapters of a system are written from: what the hypernetwork knows of each task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2l_router.context import ContextReader, Reading
from t2l_router.errors import ConfigError
from t2l_router.examples import Pair
from t2l_router.lora import LoraWeights
from training.corpus import Example, Task
from training.embeddings import Encoder
from training.oracle_file import Oracles
from training.sampling import choose_shots
from training.systems import System, described, others


@dataclass
class Inputs:
    """
    What is evaluated, and what the systems are made of.

    Args:
        tasks: The tasks.
        examples: Of each task, to be answered.
        shots: Of each task, to be shown in context or to the hypernetwork.
        encoder: Embeds descriptions.
        shared: The multi-task LoRA.
        library: Oracles of the training tasks.
        own: Oracles of the evaluated tasks.
    """

    tasks: list[Task]
    examples: list[list[Example]]
    shots: list[list[Example]]
    encoder: Encoder
    shared: LoraWeights | None = None
    library: Oracles | None = None
    own: Oracles | None = None


def conditions(
    system: System, inputs: Inputs, seed: int, reader: ContextReader | None
) -> NDArray[np.float32] | Reading:
    """
    Give what the hypernetwork is to know of each task.

    Args:
        system: Says what it is made of.
        inputs: The tasks, and their examples to show.
        seed: Decides which description and examples.
        reader: Reads tokens, for a hypernetwork that does.

    Raises:
        ConfigError: The hypernetwork reads no tokens, but *system* shows examples.
    """
    rows = _embedded(system, inputs, seed)
    if reader is not None:
        return reader.read(rows, _texts(system, inputs, seed), _sets(system, inputs, seed))
    if system.examples != "none":
        raise ConfigError(
            f"{system.name} needs a checkpoint that reads examples; train one with: "
            "python -m training.sft --read 0,10,20,30"
        )
    return rows


def _embedded(system: System, inputs: Inputs, seed: int) -> NDArray[np.float32]:
    if system.adapter == "ensemble":
        rows = np.stack([inputs.encoder.embed(task.descriptions).mean(0) for task in inputs.tasks])
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit.astype(np.float32)
    if system.adapter == "nothing":
        width = inputs.encoder.embed([inputs.tasks[0].descriptions[0]]).shape[1]
        return np.zeros((len(inputs.tasks), width), np.float32)
    return inputs.encoder.embed(described(inputs.tasks, system.adapter, seed))


def _texts(system: System, inputs: Inputs, seed: int) -> Sequence[str]:
    if system.adapter in ("ensemble", "nothing"):
        return [""] * len(inputs.tasks)
    return described(inputs.tasks, system.adapter, seed)


def _sets(system: System, inputs: Inputs, seed: int) -> list[list[Pair]]:
    if system.examples == "none":
        return [[] for _ in inputs.tasks]
    sets = [
        [(shot.text, shot.outputs[0]) for shot in choose_shots(task, shots, seed)]
        for task, shots in zip(inputs.tasks, inputs.shots, strict=True)
    ]
    return [sets[i] for i in others(len(sets), seed)] if system.examples == "shuffled" else sets
