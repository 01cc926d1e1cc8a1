"""What the adapters of a system are written from: a row of hypernetwork input for each task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2l_router.errors import ConfigError
from t2l_router.example_features import ExampleReader, Standard, compose, unit
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
        standard: How the hypernetwork reads examples, if it does.
    """

    tasks: list[Task]
    examples: list[list[Example]]
    shots: list[list[Example]]
    encoder: Encoder
    shared: LoraWeights | None = None
    library: Oracles | None = None
    own: Oracles | None = None
    standard: Standard | None = None


def conditions(
    system: System, inputs: Inputs, seed: int, reader: ExampleReader | None
) -> NDArray[np.float32]:
    """
    Give each task's hypernetwork input.

    Args:
        system: Says what it is made of.
        inputs: The tasks, and their examples to show.
        seed: Decides which description and examples.
        reader: Reads examples.

    Raises:
        ConfigError: The hypernetwork reads no examples, but *system* shows some.
    """
    if system.examples == "none":
        return _descriptions(system, inputs, seed)
    if reader is None:
        raise ConfigError(
            f"{system.name} needs a checkpoint that reads examples; train one with: "
            "python -m training.sft --examples FILE"
        )
    sets = [
        [(shot.text, shot.outputs[0]) for shot in choose_shots(task, shots, seed)]
        for task, shots in zip(inputs.tasks, inputs.shots, strict=True)
    ]
    if system.examples == "shuffled":
        sets = [sets[i] for i in others(len(sets), seed)]
    return compose(_descriptions(system, inputs, seed), reader.read(sets))


def _descriptions(system: System, inputs: Inputs, seed: int) -> NDArray[np.float32]:
    if system.adapter == "ensemble":
        return unit(np.stack([_mean(inputs.encoder, task.descriptions) for task in inputs.tasks]))
    if system.adapter == "nothing":
        width = inputs.encoder.embed([inputs.tasks[0].descriptions[0]]).shape[1]
        return np.zeros((len(inputs.tasks), width), np.float32)
    return inputs.encoder.embed(described(inputs.tasks, system.adapter, seed))


def _mean(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = encoder.embed(texts).mean(0)
    return mean
