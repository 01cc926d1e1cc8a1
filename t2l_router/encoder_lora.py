"""
A LoRA adapter of the task encoder itself, trained along with a hypernetwork and shipped beside it.

It is merged into the encoder's weights when these are loaded, so it costs nothing afterwards.
"""

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from t2l_router.errors import ModelCorrupt


class LowRank(nn.Module):
    """
    A weight plus ``alpha / rank * B @ A``, with B = 0 at the start.

    Args:
        linear: Whose weight it changes.
        rank: Of the change.
        alpha: Scales it.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(linear.in_features)
        a = torch.empty(rank, linear.in_features, device=linear.weight.device)
        self.lora_A = nn.Parameter(a.uniform_(-bound, bound))
        b = torch.zeros(linear.out_features, rank, device=linear.weight.device)
        self.lora_B = nn.Parameter(b)
        self.scaling = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Give the changed weight."""
        return weight + (self.scaling * (self.lora_B @ self.lora_A)).to(weight.dtype)


def open_up(model: nn.Module, *, rank: int, alpha: float) -> None:
    """Freeze a model, and give every linear layer of it a trainable change of low rank."""
    model.requires_grad_(False)
    for _, linear in _linears(model):
        change = LowRank(linear, rank=rank, alpha=alpha)
        parametrize.register_parametrization(linear, "weight", change)


def save(model: nn.Module, path: Path) -> None:
    """Write what was trained of a model that `open_up` prepared, in bf16."""
    tensors, scaling = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            layer = name.removesuffix(".parametrizations.weight.0")
            tensors[f"{layer}.lora_A"] = module.lora_A.detach().bfloat16().cpu().contiguous()
            tensors[f"{layer}.lora_B"] = module.lora_B.detach().bfloat16().cpu().contiguous()
            scaling.add(module.scaling)
    (scale,) = scaling
    save_file(tensors, path, metadata={"facts": json.dumps({"scaling": scale})})
    path.chmod(0o644)  # safetensors writes for the owner only


def merge(model: nn.Module, path: Path) -> None:
    """
    Add a saved change to a model's weights.

    Raises:
        ModelCorrupt: The file is unreadable, or was made for another model.
    """
    try:
        with safe_open(path, "pt") as file:
            scaling = float(json.loads(file.metadata()["facts"])["scaling"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path}: {error!r}; get the checkpoint anew") from None
    layers = dict(_linears(model))
    wanted = {f"{name}.{side}" for name in layers for side in ("lora_A", "lora_B")}
    if wanted != set(tensors):
        raise ModelCorrupt(f"{path} was made for another encoder: {_differences(wanted, tensors)}")
    with torch.no_grad():
        for name, linear in layers.items():
            change = scaling * (tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"])
            if change.shape != linear.weight.shape or not change.isfinite().all():
                raise ModelCorrupt(f"{path} was made for another encoder: {name} doesn't fit")
            linear.weight += change.to(linear.weight)


def fingerprint(encoder: str, path: Path) -> str:
    """Identity of an encoder, given by its own fingerprint, with a change merged."""
    changed = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(f"{encoder}+{changed}".encode()).hexdigest()


def _linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]


def _differences(wanted: set[str], found: dict[str, Tensor]) -> str:
    return ", ".join(sorted(wanted ^ set(found))[:3])
