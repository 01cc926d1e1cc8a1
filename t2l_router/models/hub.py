"""Models from the Hugging Face hub: config, tokenizer and safetensors, nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2l_router.errors import ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from t2l_router.models.catalogue import Kind

CONNECT_TIMEOUT_S = 4.0

_TOP_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "README.md",
)
_ENCODER_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


class HubUnreachable(Exception):
    """The hub does not answer from here, or does not give this model to this user."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """One model at one commit: the files that will be fetched and their sizes in bytes."""

    name: str
    commit: str
    kind: "Kind"
    licence: str
    files: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Size of the download."""
        return sum(self.files.values())


def look_up(name: str, revision: str | None) -> HubModel:
    """
    Ask the hub what a model consists of; takes seconds at most where there is no hub.

    Raises:
        HubUnreachable: No answer, or no access.
        ModelUnavailable: There is such a repository, but without safetensors weights or without
            ``tokenizer.json``.
    """
    import httpx  # noqa: PLC0415 - slow imports; nothing needs them once models are cached
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
    )

    try:
        info = HfApi().model_info(
            name, revision=revision, files_metadata=True, timeout=CONNECT_TIMEOUT_S
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise HubUnreachable(_first_line(error)) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    card = info.card_data
    return HubModel(
        name=name,
        commit=info.sha or "",
        kind="encoder" if "modules.json" in sizes else "base",
        licence=str(card.get("license") or "") if card is not None else "",
        files=_wanted(name, sizes),
    )


def download(model: HubModel, folder: Path, *, advance: "Callable[[int], None]") -> None:
    """
    Have the model's files in *folder*; an earlier, broken-off download is continued.

    Raises:
        HubUnreachable: The connection broke, or the model is gated.
    """
    import httpx  # noqa: PLC0415
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    for file, size_bytes in model.files.items():
        try:
            hf_hub_download(
                model.name,
                file,
                revision=model.commit,
                local_dir=folder,
                etag_timeout=CONNECT_TIMEOUT_S,
            )
        except (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            httpx.HTTPError,
        ) as error:
            raise HubUnreachable(_first_line(error)) from error
        advance(size_bytes)


def _wanted(name: str, sizes: dict[str, int]) -> dict[str, int]:
    shards = [file for file in sizes if file.startswith("model-") and file.endswith(".safetensors")]
    weights = [_WEIGHTS] if _WEIGHTS in sizes else [*shards, _WEIGHTS_INDEX]
    missing = [file for file in (*weights, "config.json", "tokenizer.json") if file not in sizes]
    if missing or not (shards or _WEIGHTS in sizes):
        raise ModelUnavailable(
            f"{name} on the hub has no {' and no '.join(missing)}; t2l loads safetensors weights "
            "with a tokenizer.json only (no pickled weights, no code from the hub)"
        )
    wanted = {*_TOP_FILES, *weights}
    if "modules.json" in sizes:
        wanted.update(_ENCODER_FILES)
        # One folder for each step after the transformer: pooling, a dense layer, normalisation.
        wanted.update(
            file
            for file in sizes
            if file.count("/") == 1 and file[0].isdigit() and file.endswith((".json", _WEIGHTS))
        )
    return {file: size for file, size in sorted(sizes.items()) if file in wanted}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
