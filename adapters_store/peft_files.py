"""
The two files of a PEFT adapter, read by our own rules.

Nothing here runs code from the files: the weights are safetensors (a JSON header and raw numbers),
the config is parsed field by field and written anew, so that unknown settings never reach PEFT.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapters_store.errors import InvalidImport
from adapters_store.identity import AdapterId, TensorBytes, adapter_id

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 2 << 30
MAX_RANK = 512
_MAX_HEADER_BYTES = 16 << 20
_BYTES_PER_ELEMENT = {"BF16": 2, "F16": 2, "F32": 4}
_TENSOR_NAME = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)\.lora_(?P<matrix>[AB])\.weight"
)

# What else PEFT knows changes how the tensors act: it must be absent or off. Anything not named
# here (``auto_mapping``, which names modules to import, for one) is dropped: see `LoraSettings`.
_OFF: tuple[object, ...] = (None, False, [], {}, "")
_UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern",
    "layer_replication", "fan_in_fan_out", "trainable_token_indices", "target_parameters",
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The fields of ``adapter_config.json`` that matter, checked."""

    base_model: str
    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...]

    @property
    def scaling(self) -> float:
        """The factor on lora_B @ lora_A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def identity(self) -> dict[str, object]:
        """What the adapter id covers besides base model and tensors."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "target_modules": list(self.target_modules),
        }

    def to_json(self) -> bytes:
        """The config file as the library writes it: the same bytes for the same settings."""
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_dropout": 0.0,
            **self.identity(),
        }
        return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


@dataclass(frozen=True)
class AdapterFiles:
    """
    One adapter as PEFT stores it.

    Args:
        config: The bytes of ``adapter_config.json``.
        weights: The bytes of ``adapter_model.safetensors``.
    """

    config: bytes = field(repr=False)
    weights: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of both files."""
        return len(self.config) + len(self.weights)

    @cached_property
    def tensors(self) -> Mapping[str, TensorBytes]:
        """The tensors by their PEFT name. Raises `InvalidImport` for anything but safetensors."""
        return parse_safetensors(self.weights)

    @cached_property
    def settings(self) -> LoraSettings:
        """The checked config. Raises `InvalidImport` for settings that we don't serve."""
        return parse_config(self.config, self.modules)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Paths of the adapted modules in the base model, sorted; each has its pair of tensors."""
        found: dict[str, set[str]] = {}
        for name in self.tensors:
            match = _TENSOR_NAME.fullmatch(name)
            if match is None:
                raise InvalidImport(
                    f"tensor {name[:120]!r} is no LoRA matrix of a linear module as PEFT names it"
                )
            found.setdefault(match["module"], set()).add(match["matrix"])
        for module, matrices in found.items():
            if matrices != {"A", "B"}:
                raise InvalidImport(f"{module}: lora_A and lora_B must both be there")
        if not found:
            raise InvalidImport(f"{WEIGHTS_FILE} holds no tensors")
        return tuple(sorted(found))

    def pair(self, module: str) -> tuple[TensorBytes, TensorBytes]:
        """lora_A ``[R, d_in]`` and lora_B ``[d_out, R]`` of one module."""
        stem = f"base_model.model.{module}"
        return self.tensors[f"{stem}.lora_A.weight"], self.tensors[f"{stem}.lora_B.weight"]

    def adapter_id(self, base: str) -> AdapterId:
        """The content id on the base model with fingerprint *base*."""
        return adapter_id(base, self.settings.identity(), self.tensors)

    def canonical(self) -> "AdapterFiles":
        """The same adapter with the config as the library writes it."""
        written = AdapterFiles(self.settings.to_json(), self.weights)
        # The same weights: what was parsed of them holds there too.
        vars(written).update(tensors=self.tensors, modules=self.modules)
        return written


def parse_config(data: bytes, modules: tuple[str, ...]) -> LoraSettings:
    """
    Check ``adapter_config.json``.

    Args:
        data: The file.
        modules: Paths of the modules that have tensors; the target modules follow from them,
            because PEFT also accepts patterns there.

    Raises:
        InvalidImport: It is no LoRA config, or asks for something that we don't serve.
    """
    config = _json_object(data, CONFIG_FILE)
    if config.get("peft_type") != "LORA":
        raise InvalidImport(f"peft_type is {config.get('peft_type')!r}; only LORA is supported")
    for key in _UNSUPPORTED:
        if config.get(key) not in _OFF:
            raise InvalidImport(f"{CONFIG_FILE}: {key}={config[key]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise InvalidImport(f"{CONFIG_FILE}: bias={config['bias']!r}; only 'none' is supported")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise InvalidImport(f"{CONFIG_FILE}: r={rank!r}; use 1 to {MAX_RANK}")
    if type(alpha) not in (int, float) or not 0 < alpha < 1e6:  # noqa: PLR2004 - beyond any use
        raise InvalidImport(f"{CONFIG_FILE}: lora_alpha={alpha!r}; use a positive number")
    base_model = config.get("base_model_name_or_path") or ""
    if not isinstance(base_model, str) or len(base_model) > 256 or not base_model.isprintable():  # noqa: PLR2004
        raise InvalidImport(f"{CONFIG_FILE}: base_model_name_or_path is no model name")
    targets = tuple(sorted({module.rpartition(".")[2] for module in modules}))
    return LoraSettings(base_model, rank, float(alpha), config.get("use_rslora") is True, targets)


def parse_safetensors(data: bytes) -> dict[str, TensorBytes]:
    """
    Split a safetensors file into its tensors; every byte belongs to exactly one of them.

    Raises:
        InvalidImport: It is something else (a pickle, say), truncated, or has odd dtypes.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - 8):  # noqa: PLR2004
        raise InvalidImport(f"{WEIGHTS_FILE} is no safetensors file; pickles are never read")
    header = _json_object(data[8 : 8 + length], f"{WEIGHTS_FILE}'s header")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    tensors: dict[str, TensorBytes] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        dtype, shape, start, end = _tensor_entry(name, entry)
        spans.append((start, end))
        tensors[name] = TensorBytes(dtype, shape, bytes(body[start:end]))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise InvalidImport(f"{WEIGHTS_FILE}: tensors overlap or leave gaps at byte {start}")
        position = end
    if position != len(body):
        raise InvalidImport(f"{WEIGHTS_FILE} has {len(body)} bytes of tensors, not {position}")
    return tensors


def _tensor_entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        elements = math.prod(shape)
        sound = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InvalidImport(f"{WEIGHTS_FILE}: tensor {name[:120]!r} has a broken header entry")
    if dtype not in _BYTES_PER_ELEMENT:
        raise InvalidImport(f"tensor {name[:120]!r} has dtype {dtype!r}; use BF16, F16 or F32")
    if end - start != elements * _BYTES_PER_ELEMENT[dtype]:
        raise InvalidImport(f"tensor {name[:120]!r}: {end - start} bytes don't fit shape {shape}")
    return dtype, tuple(shape), start, end


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf8"))
    except (ValueError, RecursionError) as error:
        raise InvalidImport(f"{what} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidImport(f"{what} is no JSON object")
    return value
