"""
What the plugin is told: variables named ``T2L_RESOLVER_...``.

vLLM gives its plugins nothing but the environment, so this module reads it as well as
`t2l_router.config` does for everything else (ADR-0011).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from t2l_router.errors import ConfigError

PREFIX = "T2L_RESOLVER_"


class ResolverSettings(BaseSettings):
    """
    Where adapters come from and where they are kept.

    Args:
        source: A shared directory, an fsspec URL, or ``http(s)://`` of a router's admin API.
        source_options: For an fsspec URL: what its filesystem needs, e.g. ``endpoint_url``.
        key: For a router: an API key of the operator with the scope ``pull``.
        cache_dir: Local directory of this server's copies; nothing in it is ever removed.
        cache_max_mib: From here on new adapters are refused.
        base_model: Folder or fingerprint of the base model, where vLLM's ``--model`` is neither a
            folder nor a name in the hub's cache.
        unknown_for_s: How long a name that nobody knew, or a refused one, is not asked for again.
        timeout_s: How long a router may keep silent.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    source: str
    source_options: dict[str, Any] = {}
    key: SecretStr | None = None
    cache_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
    cache_max_mib: int = Field(20_480, ge=1)
    base_model: str | None = None
    unknown_for_s: float = Field(5.0, ge=0)
    timeout_s: float = Field(30.0, gt=0)

    @property
    def kind(self) -> Literal["directory", "objects", "router"]:
        """What *source* names."""
        scheme, separator, _ = self.source.partition("://")
        if not separator or scheme == "file":
            return "directory"
        return "router" if scheme in ("http", "https") else "objects"


class _Source(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    source: str | None = None


def load() -> ResolverSettings | None:
    """
    Read the settings; None where the plugin is installed but no source is set.

    Raises:
        ConfigError: Naming every bad setting.
    """
    if _Source().source is None:
        return None
    try:
        return ResolverSettings()
    except ValidationError as error:
        faults = [
            f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()
        ]
        raise ConfigError("\n".join(["bad settings of the t2l plugin:", *faults])) from None
    except ValueError as error:  # pydantic-settings' own, for JSON that is none
        raise ConfigError(f"bad settings of the t2l plugin: {error}") from None
