"""From the settings to the adapter library, and from tensors to what it stores."""

import contextlib
import getpass
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapters_store import AdapterFiles, AdapterStore, StoreConfig
from adapters_store.errors import StoreError
from adapters_store.names import DEFAULT_TENANT
from t2l_router.config import Settings
from t2l_router.errors import InvalidAdapter
from t2l_router.writer import Encoder

if TYPE_CHECKING:
    from rich.progress import Progress

    from t2l_router.encoder import TaskEncoder
    from t2l_router.engines.base import Weights
    from t2l_router.lora import LoraSpec, LoraWeights


def library_config(settings: Settings, *, actor: str) -> StoreConfig:
    """Where the library lies: embedded below the data directory, unless settings say otherwise."""
    embedded = StoreConfig.in_directory(
        settings.data_dir / "library", index=settings.library_index, actor=actor
    )
    database = settings.library_database
    return replace(
        embedded,
        database_url=database.get_secret_value() if database else embedded.database_url,
        blobs_url=settings.library_blobs or embedded.blobs_url,
    )


def open_library(settings: Settings, *, actor: str) -> AdapterStore:
    """The library, created where there is none; close it when done."""
    return AdapterStore.open(library_config(settings, actor=actor))


def warm_up(store: AdapterStore, encoder: Encoder, *, base: str) -> None:
    """Search once, so that the first request doesn't wait for the index to be read."""
    # A library that can't be searched is each request's to report; it may be mended meanwhile.
    with contextlib.suppress(StoreError):
        embedding = encoder.embed(["warm up"])[0]
        store.search(embedding, tenant=DEFAULT_TENANT, base=base, encoder=encoder.fingerprint)


def operator() -> str:
    """Who runs this program, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"


def adapter_files(weights: "LoraWeights") -> AdapterFiles:
    """An adapter's tensors as the library stores them."""
    # Lazy: whoever only reads the library needs no torch.
    from safetensors.torch import save  # noqa: PLC0415

    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": weights.spec.base_model,
        **weights.spec.lora_config(),
    }
    tensors = save(weights.peft_tensors(), metadata={"format": "pt"})
    return AdapterFiles(json.dumps(config).encode(), tensors)


class LoraTensors:
    """
    Files and distances of LoRA adapters; see `t2l_router.adapters.Tensors`.

    Args:
        spec: Shapes of the base model.
    """

    def __init__(self, spec: "LoraSpec") -> None:
        self._spec = spec
        self.shapes = module_shapes(spec)

    def pack(self, weights: "Weights") -> AdapterFiles:
        """The adapter as the library stores it."""
        return adapter_files(_lora(weights))

    def read(self, directory: Path) -> "LoraWeights":
        """The adapter of a PEFT directory."""
        from t2l_router.lora import LoraWeights  # noqa: PLC0415

        return LoraWeights.load_peft(directory, self._spec)

    def distance(self, one: "Weights", two: "Weights") -> float:
        """Delta-W distance of two adapters."""
        return _lora(one).delta_distance(_lora(two))


def _lora(weights: "Weights") -> "LoraWeights":
    from t2l_router.lora import LoraWeights  # noqa: PLC0415

    if not isinstance(weights, LoraWeights):
        raise InvalidAdapter(f"{weights.adapter_id} has no LoRA tensors")
    return weights


def module_shapes(spec: "LoraSpec") -> dict[str, tuple[int, int]]:
    """Module path -> (d_in, d_out) of everything that adapters of this base model may change."""
    return {
        module.path.format(layer=layer): (module.d_in, module.d_out)
        for module in spec.modules
        for layer in range(spec.n_layers)
    }


def load_encoder(
    settings: Settings,
    *,
    enter: Callable[[str], None],
    progress: "Progress | None" = None,
) -> "TaskEncoder":
    """The encoder that the settings name, or else the one of the hypernetwork they name."""
    # Lazy: whoever only reads the library needs no torch.
    from t2l_router import checkpoint  # noqa: PLC0415
    from t2l_router.encoder import TaskEncoder  # noqa: PLC0415
    from t2l_router.models import pull  # noqa: PLC0415

    name = settings.encoder or checkpoint.from_pretrained(settings.hypernet).config.encoder
    enter(f"loading {name}")
    local = pull(name, cache_dir=settings.cache_dir, progress=progress)
    return TaskEncoder.load(local, lora=checkpoint.encoder_lora(settings.hypernet))
