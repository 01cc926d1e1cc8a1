"""Base models and encoders on this machine's disk: fetched, verified, loaded."""

from t2l_router.models.cache import (
    LocalModel,
    installed,
    local,
    removable,
    remove,
    size_bytes,
    verify,
)
from t2l_router.models.catalogue import KNOWN_MODELS, KnownModel, canonical_name
from t2l_router.models.load import load_base
from t2l_router.models.manifest import Manifest, read_manifest
from t2l_router.models.pulling import pull

__all__ = [
    "KNOWN_MODELS",
    "KnownModel",
    "LocalModel",
    "Manifest",
    "canonical_name",
    "installed",
    "load_base",
    "local",
    "pull",
    "read_manifest",
    "removable",
    "remove",
    "size_bytes",
    "verify",
]
