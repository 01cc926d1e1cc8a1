"""Hypernetwork checkpoints: a directory in hub layout, safetensors only, loaded strictly."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from t2l_router.context_hypernet import ContextHypernet
from t2l_router.errors import CheckpointMismatch, ConfigError, ModelCorrupt, ModelUnavailable
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec, ModuleShape
from t2l_router.mean_hypernet import AnyHypernet, MeanHypernet
from t2l_router.reader import ReaderConfig

DEFAULT = "default"
# What ships: one for a sentence's embedding, in milliseconds; one that reads sentences,
# instructions and examples by token. By default both write together.
SENTENCES, EXAMPLES = "default-sentences", "default-examples"
SHIPPED = {
    SENTENCES: "smollm2-135m-instruct-l",
    EXAMPLES: "smollm2-135m-instruct-examples",
}
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
ENCODER_FILE = "encoder_lora.safetensors"
FORMAT = 1


def save_pretrained(
    hypernet: AnyHypernet,
    directory: Path,
    *,
    card: str,
    encoder_lora: Path | None = None,
) -> None:
    """
    Write a checkpoint in bf16; the directory appears whole or not at all.

    Args:
        hypernet: What to save.
        directory: Where; an earlier checkpoint there is replaced.
        card: The model card, Markdown.
        encoder_lora: What was trained of the task encoder along with it.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        tensors = {
            name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
            for name, tensor in hypernet.state_dict().items()
        }
        save_file(tensors, beside / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {"format": FORMAT, **dataclasses.asdict(hypernet.config)}
        (beside / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (beside / CARD_FILE).write_text(card)
        if encoder_lora is not None:
            shutil.copy(encoder_lora, beside / ENCODER_FILE)
        (beside / WEIGHTS_FILE).chmod(0o644)  # safetensors writes for the owner only
        beside.chmod(0o755)
        shutil.rmtree(directory, ignore_errors=True)
        beside.replace(directory)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def from_pretrained(
    name: str | Path = DEFAULT, *, revision: str | None = None
) -> AnyHypernet | MeanHypernet:
    """
    Load a hypernetwork in float32 and evaluation mode.

    Args:
        name: A directory, a hub repository, or of `SHIPPED`: ``default-sentences``, or
            ``default-examples``, which reads tokens. Several, joined by ``+``, write adapters
            together; ``default`` is these two.
        revision: Commit of the hub repository.

    Raises:
        ConfigError: Those joined don't go together.
        ModelUnavailable: No such directory, and the hub has no such repository or is unreachable.
        ModelCorrupt: Files are missing, unreadable, or don't belong together.
    """
    members = _members(name)
    loaded = [_load(member, revision) for member in members]
    hypernet = loaded[0] if len(members) == 1 else MeanHypernet(loaded)
    return hypernet.eval().requires_grad_(False)


def _members(name: str | Path) -> list[str]:
    # A directory may have the sign in its name.
    named = [str(name)] if Path(name).is_dir() else str(name).split("+")
    if not all(named):
        raise ConfigError(f"{str(name)!r}: a checkpoint's name is missing; join them as in a+b")
    members = [member for one in named for member in (SHIPPED if one == DEFAULT else [one])]
    return list(dict.fromkeys(members))  # a mean of one with itself is that one


def _load(name: str, revision: str | None) -> AnyHypernet:
    directory = _locate(name, revision)
    config = _read_config(directory / CONFIG_FILE)
    try:
        tensors = load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelCorrupt(
            f"{directory / WEIGHTS_FILE}: {error}; get the checkpoint anew"
        ) from None
    # Weights are loaded over these values anyway, so no time is spent on drawing them.
    with torch.device("meta"):
        hypernet = (ContextHypernet if config.reader else Hypernet)(config)
    try:
        hypernet.load_state_dict(
            {key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True
        )
    except RuntimeError as error:
        raise ModelCorrupt(f"{directory}: weights don't fit {CONFIG_FILE}: {error}") from None
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelCorrupt(f"{directory / WEIGHTS_FILE}: holds NaN or infinity")
    return hypernet


def hypernet_id(name: str | Path = DEFAULT) -> str:
    """Return 16 hex digits that name a local checkpoint's weights and shapes, or those of all."""
    ids = []
    for member in _members(name):
        directory = _locate(member, None)
        digest = hashlib.sha256((directory / CONFIG_FILE).read_bytes())
        digest.update((directory / WEIGHTS_FILE).read_bytes())
        ids.append(digest.hexdigest()[:16])
    return ids[0] if len(ids) == 1 else hashlib.sha256("+".join(ids).encode()).hexdigest()[:16]


def encoder_lora(name: str | Path = DEFAULT) -> Path | None:
    """Find what was trained of the task encoder along with a local checkpoint, if anything was."""
    # Those that write together have one encoder.
    path = _locate(_members(name)[0], None) / ENCODER_FILE
    return path if path.is_file() else None


def check_base(config: HypernetConfig, base: LoraSpec) -> None:
    """
    Make sure that a hypernetwork writes adapters for this base model.

    Args:
        config: The hypernetwork's.
        base: The shapes of the base model that is served.

    Raises:
        CheckpointMismatch: Another model, or the same name with other shapes.
    """
    lora = config.lora
    if lora.base_model != base.base_model or not lora.same_shapes(base):
        raise CheckpointMismatch(
            f"this hypernetwork writes adapters for {lora.base_model} ({lora.n_layers} layers), "
            f"not for {base.base_model} ({base.n_layers} layers); choose a checkpoint trained for "
            f"that base model, or train one with: t2l train --base {base.base_model}"
        )


def _locate(name: str, revision: str | None) -> Path:
    if name in SHIPPED:
        return Path(str(files("t2l_router") / "checkpoints" / SHIPPED[name]))
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, ENCODER_FILE],
                etag_timeout=5,
            )
        )
    except HFValidationError:
        raise ModelUnavailable(f"there is no checkpoint directory {name!r}") from None
    except (HfHubHTTPError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise ModelUnavailable(
            f"{name!r} is none of {', '.join((DEFAULT, *SHIPPED))}, and neither a checkpoint "
            f"directory nor a reachable hub repository: {why}"
        ) from None


def _read_config(path: Path) -> HypernetConfig:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        if raw.pop("format") != FORMAT:
            raise ModelCorrupt(f"{path}: written by another version of t2l; get a newer t2l")
        lora = raw.pop("lora")
        modules = tuple(ModuleShape(**module) for module in lora.pop("modules"))
        if reader := raw.pop("reader", None):
            reader = ReaderConfig(**{**reader, "depths": tuple(reader["depths"])})
        return HypernetConfig(lora=LoraSpec(modules=modules, **lora), reader=reader, **raw)
    except FileNotFoundError:
        inside = path.parent / "checkpoint"  # of a training run
        hint = f"; {inside} is one" if (inside / CONFIG_FILE).is_file() else ""
        raise ModelCorrupt(f"{path.parent} is no checkpoint: no {CONFIG_FILE}{hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path}: not a hypernetwork config: {error!r}") from None
