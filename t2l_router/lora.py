"""One adapter's tensors: whether they are sound, how PEFT stores them, how far two are apart."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters_store.identity import AdapterId, TensorBytes, adapter_id
from t2l_router.errors import InvalidAdapter
from t2l_router.lora_spec import LoraSpec, ModuleShape

__all__ = ["LoraSpec", "LoraWeights", "ModuleShape"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_SAFETENSORS_DTYPE = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


@dataclass(frozen=True)
class LoraWeights:
    """
    The tensors of one adapter, stacked over layers.

    Semantics:
        delta_W[layer] = scaling * lora_B[layer] @ lora_A[layer]

    Args:
        spec: The shapes they must have.
        lora_A: Module name -> ``[L, R, d_in]``.
        lora_B: Module name -> ``[L, d_out, R]``, same dtype and device.
    """

    spec: LoraSpec
    lora_A: Mapping[str, Tensor] = field(repr=False)
    lora_B: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def adapter_id(self) -> AdapterId:
        """The content id: equal for equal tensors on the same base model."""
        tensors = {
            name: TensorBytes(
                _SAFETENSORS_DTYPE[tensor.dtype],
                tuple(tensor.shape),
                tensor.contiguous().view(torch.uint8).numpy().tobytes(),
            )
            for name, tensor in self.peft_tensors().items()
        }
        return adapter_id(self.spec.base_fingerprint, self.spec.lora_config(), tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        pairs = (*self.lora_A.values(), *self.lora_B.values())
        return sum(tensor.nbytes for tensor in pairs)

    def validate(self, *, max_delta_norm: float | None = None) -> None:
        """
        Check shapes, finiteness and size.

        Args:
            max_delta_norm: Largest allowed Frobenius norm of a layer's scaled delta-W.

        Raises:
            InvalidAdapter: Naming the first module at fault.
        """
        spec = self.spec
        names = {module.name for module in spec.modules}
        if set(self.lora_A) != names or set(self.lora_B) != names:
            raise InvalidAdapter(f"adapter has modules {sorted(self.lora_A)}, not {sorted(names)}")
        for module in spec.modules:
            a, b = self.lora_A[module.name], self.lora_B[module.name]
            expected = (
                (spec.n_layers, spec.rank, module.d_in),
                (spec.n_layers, module.d_out, spec.rank),
            )
            if (tuple(a.shape), tuple(b.shape)) != expected:
                raise InvalidAdapter(
                    f"{module.name}: lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} "
                    f"should be {expected[0]} and {expected[1]}"
                )
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise InvalidAdapter(f"{module.name}: the tensors hold NaN or infinity")
        if max_delta_norm is not None:
            for name, norms in self.delta_norms().items():
                if (largest := norms.max().item()) > max_delta_norm:
                    raise InvalidAdapter(
                        f"{name}: norm of delta-W is {largest:.3g}, above the limit of "
                        f"{max_delta_norm:.3g} for adapters of this hypernetwork"
                    )

    def delta_norms(self) -> dict[str, Tensor]:
        """Frobenius norms of the scaled delta-W: module name -> ``[L]`` float32."""
        return {
            name: self.spec.scaling * _inner(self, self, name).clamp_min(0).sqrt()
            for name in self.lora_A
        }

    def delta_distance(self, other: "LoraWeights") -> float:
        """
        How far two adapters' delta-W are apart, relative to their size.

        Semantics:
            ||dW1 - dW2||_F / sqrt((||dW1||_F^2 + ||dW2||_F^2) / 2), over all layers and modules;
            0 for equal behaviour, sqrt(2) for unrelated ones, 2 for opposites.

        Raises:
            InvalidAdapter: The adapters belong to different base models or modules.
        """
        if not self.spec.same_shapes(other.spec):
            raise InvalidAdapter("adapters of different shapes have no delta-W distance")
        own = other_own = cross = 0.0
        for name in self.lora_A:
            own += self.spec.scaling**2 * _inner(self, self, name).sum().item()
            other_own += other.spec.scaling**2 * _inner(other, other, name).sum().item()
            scale = self.spec.scaling * other.spec.scaling
            cross += scale * _inner(self, other, name).sum().item()
        mean = (own + other_own) / 2
        return 0.0 if mean == 0 else math.sqrt(max(0.0, own + other_own - 2 * cross) / mean)

    def peft_tensors(self) -> dict[str, Tensor]:
        """The tensors under their PEFT names, on the CPU."""
        tensors = {}
        for module, layer, name_a, name_b in self.spec.tensor_names():
            tensors[name_a] = self.lora_A[module.name][layer].detach().cpu().contiguous()
            tensors[name_b] = self.lora_B[module.name][layer].detach().cpu().contiguous()
        return tensors

    def save_peft(self, directory: Path) -> None:
        """
        Write a PEFT adapter directory that PEFT and vLLM load; it appears whole or not at all.

        Raises:
            FileExistsError: *directory* exists and is not empty.
        """
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} exists and is not empty")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.spec.base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_dropout": 0.0,
            **self.spec.lora_config(),
        }
        directory.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            save_file(self.peft_tensors(), beside / WEIGHTS_FILE, metadata={"format": "pt"})
            (beside / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
            (beside / WEIGHTS_FILE).chmod(0o644)  # safetensors writes for the owner only
            beside.chmod(0o755)
            beside.replace(directory)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    @classmethod
    def load_peft(cls, directory: Path, base: LoraSpec) -> "LoraWeights":
        """
        Read a PEFT adapter directory made for the same base model.

        Args:
            directory: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
            base: Shapes of the base model; rank, alpha and scaling come from the directory.

        Raises:
            InvalidAdapter: Wrong kind of adapter, names, shapes, or values that aren't finite.
        """
        spec = _read_config(directory / CONFIG_FILE, base)
        try:
            tensors = load_file(directory / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise InvalidAdapter(f"{directory}: can't read {WEIGHTS_FILE}: {error}") from error
        lora_a: dict[str, list[Tensor]] = {module.name: [] for module in spec.modules}
        lora_b: dict[str, list[Tensor]] = {module.name: [] for module in spec.modules}
        for module, _, name_a, name_b in spec.tensor_names():
            try:
                lora_a[module.name].append(tensors.pop(name_a))
                lora_b[module.name].append(tensors.pop(name_b))
            except KeyError as error:
                raise InvalidAdapter(f"{directory}: tensor {error} is missing") from None
        if tensors:
            raise InvalidAdapter(f"{directory}: unexpected tensor {min(tensors)!r}")
        try:
            weights = cls(
                spec,
                {name: torch.stack(layers) for name, layers in lora_a.items()},
                {name: torch.stack(layers) for name, layers in lora_b.items()},
            )
        except RuntimeError as error:
            raise InvalidAdapter(f"{directory}: layers differ in shape: {error}") from error
        weights.validate()
        return weights


def _inner(one: LoraWeights, two: LoraWeights, name: str) -> Tensor:
    """
    Inner products of two unscaled delta-W per layer, ``[L]`` float32.

    ``<B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T))``: rank x rank matrices, never delta-W itself.
    """
    b1, b2 = one.lora_B[name].float(), two.lora_B[name].float()
    a1, a2 = one.lora_A[name].float(), two.lora_A[name].float()
    return ((b1.mT @ b2) * (a1 @ a2.mT)).sum(dim=(-2, -1))


# Only these may differ from PEFT's defaults; anything else would change what the adapter does.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layers_to_transform": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None,),
}


def _read_config(path: Path, base: LoraSpec) -> LoraSpec:
    """Parse ``adapter_config.json`` by our own rules and match it with the base model."""
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        targets = set(config["target_modules"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidAdapter(f"{path}: not a LoRA adapter_config.json: {error!r}") from error
    for key, allowed in _NEUTRAL.items():
        if key in config and config[key] not in allowed:
            raise InvalidAdapter(f"{path}: {key}={config[key]!r} is not supported")
    modules = tuple(module for module in base.modules if module.name in targets)
    if not targets or targets != {module.name for module in modules} or rank < 1:
        raise InvalidAdapter(
            f"{path}: r={rank}, target modules {sorted(targets)}: this base model is served with "
            f"adapters on {[module.name for module in base.modules]}"
        )
    return LoraSpec(
        base_model=base.base_model,
        base_fingerprint=base.base_fingerprint,
        n_layers=base.n_layers,
        modules=modules,
        rank=rank,
        alpha=alpha,
        rslora=bool(config.get("use_rslora", False)),
    )
