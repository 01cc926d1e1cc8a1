"""Many tasks' adapters of one base model in one safetensors file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """

    spec: LoraSpec
    tasks: Sequence[str]
    lora_A: Mapping[str, Tensor] = field(repr=False)
    lora_B: Mapping[str, Tensor] = field(repr=False)

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

    def choose(self, tasks: Sequence[str]) -> "Oracles":
        """Give the adapters of some tasks, in the order of *tasks*."""
        index = {task: row for row, task in enumerate(self.tasks)}
        rows = [index[task] for task in tasks]
        sides = (self.lora_A, self.lora_B)
        a, b = ({name: tensor[rows] for name, tensor in side.items()} for side in sides)
        return Oracles(self.spec, list(tasks), a, b)

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        tensors = {f"{name}.lora_A": tensor for name, tensor in self.lora_A.items()}
        tensors |= {f"{name}.lora_B": tensor for name, tensor in self.lora_B.items()}
        metadata = {
            "spec": json.dumps(dataclasses.asdict(self.spec)),
            "tasks": json.dumps(list(self.tasks)),
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
                spec = json.loads(file.metadata()["spec"])
                tasks = json.loads(file.metadata()["tasks"])
                modules = tuple(ModuleShape(**module) for module in spec.pop("modules"))
                a = {m.name: file.get_tensor(f"{m.name}.lora_A") for m in modules}
                b = {m.name: file.get_tensor(f"{m.name}.lora_B") for m in modules}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} is no file of oracle LoRAs ({error!r}); make one with: "
                f"python -m training.sft --system oracles"
            ) from None
        return cls(LoraSpec(modules=modules, **spec), tasks, a, b)
