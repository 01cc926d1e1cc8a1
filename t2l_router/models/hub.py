"""Models from the Hugging Face hub: config, tokenizer and safetensors, nothing else."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models.catalogue import Kind
from t2l_router.models.manifest import sha256_file

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

T = TypeVar("T")

CONNECT_TIMEOUT_S = 4.0
DEADLINE_S = 8.0

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
class HubFile:
    """Size of one file, and its sha256 (hex) where the hub knows it: of weights, not of texts."""

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """
    One model at one commit.

    Args:
        name: Its name on the hub.
        commit: The commit's full hash.
        kind: Base model or encoder.
        licence: SPDX id or name of the terms; empty if unknown.
        files: What will be fetched.
    """

    name: str
    commit: str
    kind: Kind
    licence: str
    files: dict[str, HubFile]

    @property
    def size_bytes(self) -> int:
        """Size of the download."""
        return sum(file.size_bytes for file in self.files.values())


def look_up(name: str, revision: str | None) -> HubModel:
    """
    Ask the hub what a model consists of; takes seconds at most where there is no hub.

    Raises:
        HubUnreachable: No answer, or no access.
        ModelUnavailable: There is such a repository, but without safetensors weights or without
            ``tokenizer.json``.
    """
    # Imported late: half a second that a machine with cached models never needs.
    import httpx  # noqa: PLC0415
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        info = _within(
            DEADLINE_S,
            lambda: HfApi().model_info(
                name, revision=revision, files_metadata=True, timeout=CONNECT_TIMEOUT_S
            ),
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise HubUnreachable(_first_line(error)) from error
    files = {sibling.rfilename: _hub_file(sibling) for sibling in info.siblings or []}
    card = info.card_data
    return HubModel(
        name=name,
        commit=info.sha or "",
        kind="encoder" if "modules.json" in files else "base",
        licence=str(card.get("license") or "") if card is not None else "",
        files=_wanted(name, files),
    )


def download(model: HubModel, folder: Path, *, advance: Callable[[int], None]) -> None:
    """
    Have the model's files in *folder*, verified; an earlier, broken-off download is continued.

    Raises:
        HubUnreachable: The connection broke, or the model is gated.
        ModelCorrupt: The hub's storage gave other bytes than its index says.
        OSError: The disk failed or is full.
    """
    import httpx  # noqa: PLC0415
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import XetDownloadError  # noqa: PLC0415

    for name, file in model.files.items():
        bar = _bar_class(advance)
        try:
            hf_hub_download(
                model.name,
                name,
                revision=model.commit,
                local_dir=folder,
                etag_timeout=CONNECT_TIMEOUT_S,
                tqdm_class=bar,
            )
        except (httpx.HTTPError, XetDownloadError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the operating system's own, such as a full disk
            raise HubUnreachable(_first_line(error)) from error
        if file.sha256 is not None and sha256_file(folder / name) != file.sha256:
            (folder / name).unlink()
            raise ModelCorrupt(f"the hub gave a damaged {name} of {model.name}; pull it again")
        advance(file.size_bytes - bar.seen_bytes)  # what an earlier attempt had fetched


def _hub_file(sibling: "RepoSibling") -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return HubFile(sibling.size or 0, sha256)


def _wanted(name: str, files: dict[str, HubFile]) -> dict[str, HubFile]:
    shards = [file for file in files if file.startswith("model-") and file.endswith(".safetensors")]
    weights = [*shards, _WEIGHTS_INDEX] if shards and _WEIGHTS not in files else [_WEIGHTS]
    missing = [file for file in (*weights, "config.json", "tokenizer.json") if file not in files]
    if missing:
        raise ModelUnavailable(
            f"{name} on the hub has no {' and no '.join(missing)}; t2l loads safetensors weights "
            "with a tokenizer.json only (no pickled weights, no code from the hub)"
        )
    wanted = {*_TOP_FILES, *weights}
    if "modules.json" in files:
        wanted.update(_ENCODER_FILES)
        # One folder for each step after the transformer: pooling, a dense layer, normalisation.
        wanted.update(
            file
            for file in files
            if file[0].isdigit() and file.count("/") == 1 and file.endswith((".json", _WEIGHTS))
        )
    return {file: record for file, record in sorted(files.items()) if file in wanted}


def _bar_class(advance: Callable[[int], None]) -> Any:
    """Make a stand-in for tqdm's bar that draws nothing and passes the bytes on."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class Bar(tqdm):
        seen_bytes = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            Bar.seen_bytes += int(n or 0)
            advance(int(n or 0))

    return Bar


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Wait no longer than *seconds*: resolving a host name has no time limit of its own."""
    outcome: SimpleQueue[T | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put(call())
        except BaseException as error:  # noqa: BLE001 - it goes to the waiting thread
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = outcome.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
