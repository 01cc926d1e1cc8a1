"""Which base model a vLLM server runs, by the fingerprint that adapters carry."""

import re
from pathlib import Path

from t2l_router.errors import ModelUnavailable
from t2l_router.models.cache import as_folder, local

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def base_fingerprint(model: str, *, cache_dir: Path) -> str:
    """
    The fingerprint of a base model.

    Args:
        model: A fingerprint, a folder, or a name in the hub's cache, where vLLM put it.
        cache_dir: Where a folder's fingerprint is kept as long as no file changes: hashing reads
            every byte of the weights.

    Raises:
        ModelUnavailable: There is no such model on this machine.
        ModelCorrupt: The folder lacks a file that counts.
    """
    if _FINGERPRINT.fullmatch(model):
        return model
    folder = as_folder(model) or _in_hub_cache(model)
    found = local(str(folder), cache_dir=cache_dir)
    assert found is not None, "a folder is a model or an error"
    return found.fingerprint


def _in_hub_cache(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - rarely needed
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelUnavailable(
            f"{name} is neither a folder nor in the hub's cache; "
            "set T2L_RESOLVER_BASE_MODEL to the model's folder or fingerprint"
        ) from error
