"""From the settings to the adapter library."""

import getpass

from adapters_store import AdapterStore, StoreConfig
from t2l_router.config import Settings


def library_config(settings: Settings, *, actor: str) -> StoreConfig:
    """Where the library lies: embedded below the data directory."""
    return StoreConfig.in_directory(settings.data_dir / "library", actor=actor)


def open_library(settings: Settings, *, actor: str) -> AdapterStore:
    """The library, created where there is none; close it when done."""
    return AdapterStore.open(library_config(settings, actor=actor))


def operator() -> str:
    """Who runs this program, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"
