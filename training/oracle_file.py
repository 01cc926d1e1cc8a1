"""Many tasks' adapters of one base model in one safetensors file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2l_router.errors import ConfigError
from t2l_router.lora import LoraSpec, LoraWeights, ModuleShape


@dataclass(frozen=True)
class Oracles:
    """
    One adapter a task.

    Args:
        spec: Every adapter's shapes.
        tasks: N names, all different.
        lora_A: Module name -> ``[N, L, R, d_in]`` bf16.
        lora_B: Module name -> ``[N, L, d_out, R]`` bf16.
        embeddings: ``[M, D]`` the tasks' descriptions, unit L2 norm; M may be 0.
        embedding_tasks: ``[M]`` int64, whose description each row is.
        encoder: The embeddings' encoder, its public name.
        encoder_fingerprint: Its fingerprint.
    """

    spec: LoraSpec
    tasks: Sequence[str]
    lora_A: Mapping[str, Tensor] = field(repr=False)
    lora_B: Mapping[str, Tensor] = field(repr=False)
    embeddings: Tensor = field(repr=False)
    embedding_tasks: Tensor = field(repr=False)
    encoder: str = ""
    encoder_fingerprint: str = ""

    def nearest(self, embeddings: NDArray[np.float32]) -> list[str]:
        """
        Give the task with the nearest description for each of ``[K, D]`` embeddings.

        Raises:
            ConfigError: The file's descriptions were embedded by another encoder, or not at all.
        """
        mine = self.embeddings.float()
        if not len(mine) or mine.shape[1] != embeddings.shape[1]:
            raise ConfigError(
                f"the oracles' descriptions are {tuple(mine.shape)} embeddings, not "
                f"[M, {embeddings.shape[1]}]; train them from a pack made with the same encoder"
            )
        rows = (torch.from_numpy(embeddings).float() @ mine.T).argmax(dim=1)
        return [self.tasks[int(self.embedding_tasks[row])] for row in rows]

    def weights(self, task: str) -> LoraWeights:
        """
        Give one task's adapter.

        Raises:
            KeyError: The task has none.
        """
        try:
            row = list(self.tasks).index(task)
        except ValueError:
            raise KeyError(task) from None
        return LoraWeights(
            self.spec,
            {name: tensor[row] for name, tensor in self.lora_A.items()},
            {name: tensor[row] for name, tensor in self.lora_B.items()},
        )

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        tensors = {f"{name}.lora_A": tensor for name, tensor in self.lora_A.items()}
        tensors |= {f"{name}.lora_B": tensor for name, tensor in self.lora_B.items()}
        tensors["embeddings"] = self.embeddings.half()
        tensors["embedding_tasks"] = self.embedding_tasks
        metadata = {
            "spec": json.dumps(dataclasses.asdict(self.spec)),
            "tasks": json.dumps(list(self.tasks)),
            "encoder": self.encoder,
            "encoder_fingerprint": self.encoder_fingerprint,
        }
        beside = path.with_name(f".{path.name}.part")
        save_file({n: t.contiguous() for n, t in tensors.items()}, beside, metadata=metadata)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Oracles":
        """
        Read a file that `save` wrote.

        Raises:
            ConfigError: There is no such file, or it is another kind of file.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = file.metadata()
                spec = json.loads(facts["spec"])
                modules = tuple(ModuleShape(**module) for module in spec.pop("modules"))
                return cls(
                    LoraSpec(modules=modules, **spec),
                    json.loads(facts["tasks"]),
                    {m.name: file.get_tensor(f"{m.name}.lora_A") for m in modules},
                    {m.name: file.get_tensor(f"{m.name}.lora_B") for m in modules},
                    file.get_tensor("embeddings"),
                    file.get_tensor("embedding_tasks"),
                    facts["encoder"],
                    facts["encoder_fingerprint"],
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} is no file of oracle LoRAs ({error!r}); make one with: "
                f"python -m training.sft --system oracles"
            ) from None
