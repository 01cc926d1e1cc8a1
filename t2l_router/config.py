"""
The settings: flags, else environment variables ``T2L_...``, else ``t2l.toml``, else defaults.

No other module reads the environment.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from platformdirs import user_cache_path, user_data_path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from t2l_router.errors import ConfigError

PREFIX = "T2L_"
FILE = Path("t2l.toml")
# Read by the integrations, or set by Kubernetes beside a service called t2l.
_NO_SETTINGS = re.compile(r"T2L_(BASE_URL|RESOLVER_.*|(.*_)?SERVICE_(HOST|PORT).*|.*PORT_\d+_.*)")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{url!r} is no address such as http://10.0.0.5:8000")
    return url.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
Directory = Annotated[Path, AfterValidator(_absolute)]


class Upstream(BaseModel):
    """
    Another server that answers, reached by litellm.

    Args:
        name: What requests call it: their ``model``.
        model: What litellm calls it, e.g. ``openai/gpt-4o-mini``.
        api_base: Its address, where litellm doesn't know it.
        api_key: Its key, where the provider's usual variable doesn't hold it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    model: str = Field(min_length=1)
    api_base: str | None = None
    api_key: SecretStr | None = None


class Settings(BaseSettings):
    """Everything that can be set; `load` reports what is wrong with it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        toml_file=FILE,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    base_model: str = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct", description="The language model that is adapted."
    )
    encoder: str | None = Field(
        None, description="Embeds task descriptions; by default the one the hypernetwork names."
    )
    hypernet: str = Field(
        "default",
        description="Writes adapters: `default`, its parts `default-sentences` (the fastest, takes "
        "no examples) and `default-examples`, or a checkpoint directory; several, joined by `+`, "
        "write together.",
    )
    data_dir: Directory = Field(
        default_factory=lambda: user_data_path("t2l"), description="Holds the adapter library."
    )
    cache_dir: Directory = Field(
        default_factory=lambda: user_cache_path("t2l"), description="Holds converted models."
    )
    library_database: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the library's database; by default SQLite in `data_dir`.",
    )
    library_blobs: str | None = Field(
        None, description="fsspec URL of the adapters' weights; by default below `data_dir`."
    )
    library_index: Literal["faiss", "exact", "pgvector"] = Field(
        "faiss", description="How the library searches; pgvector needs PostgreSQL."
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port of /admin and /metrics, which are then closed on the other.",
    )
    admin_host: str = Field("127.0.0.1", description="Address of `admin_port`.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that serve; each holds its own copy of the model."
    )
    api_key: SecretStr | None = Field(
        None, description="What `--server` commands identify themselves with."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Names by which a server without keys may be reached, besides localhost, "
        "separated by commas.",
    )
    max_body_bytes: int = Field(4 << 20, ge=1_024, description="Largest request body.")
    max_import_bytes: int = Field(
        256 << 20, ge=1_024, description="Largest adapter that is taken in over HTTP."
    )
    keep_alive_s: float = Field(
        5.0, gt=0, description="Longest silence in a stream before a comment is sent."
    )
    strict_requests: bool = Field(
        False, description="Refuse request fields that nobody knows, as OpenAI does."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Requests of a tenant that has no limit of its own."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Tokens read and written by such a tenant."
    )
    tokens_per_day: int | None = Field(
        None, ge=1, description="The same between midnight and midnight UTC."
    )
    drain_s: int = Field(30, ge=0, description="Time that running answers get at shutdown.")

    engine: Literal["local", "vllm", "echo"] = Field(
        "local",
        description="What answers: a local model, vLLM servers, or an echo without any model.",
    )
    vllm_urls: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Addresses of the vLLM servers, separated by commas, without /v1."
    )
    vllm_model: str | None = Field(
        None, description="The name that they serve the base model by; by default its own."
    )
    vllm_api_key: SecretStr | None = Field(None, description="Their key.")
    vllm_max_in_flight: int = Field(
        64, ge=1, description="Requests of this router at each vLLM server; more get a 429."
    )
    vllm_timeout_s: float = Field(60.0, gt=0, description="Longest silence of a vLLM server.")
    echo_delay_s: float = Field(0.0, ge=0, description="Time the echo takes for each word.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models run.")
    dtype: Literal["auto", "float32", "bfloat16", "int8", "int4"] = Field(
        "auto",
        description="The base model's numbers; auto is bfloat16 (docs/engine.md).",
    )
    slots: int = Field(16, ge=1, le=1_024, description="Adapters resident in the engine.")
    max_running: int = Field(8, ge=1, description="Requests answered at once.")
    max_waiting: int = Field(64, ge=0, description="Requests in the queue; more get a 429.")
    kv_memory_mib: int = Field(
        2_048,
        ge=1,
        description="Memory for keys and values, those of earlier turns included.",
    )
    max_tokens: int = Field(512, ge=1, description="Longest answer if a request names no limit.")
    temperature: float = Field(
        0.2, ge=0, le=2, description="Sampling temperature if a request names none."
    )
    upstreams: tuple[Upstream, ...] = Field(
        (), description="Other servers that answer, each a `name`, a `model` of litellm's, ..."
    )
    stand_in: str | None = Field(
        None, description="The upstream that answers when our own engine can't, by its name."
    )
    upstream_timeout_s: float = Field(
        60.0, gt=0, description="Longest wait for an upstream's answer to begin or go on."
    )
    inference: Literal["head", "library", "llm", "off"] = Field(
        "head",
        description="How tasks that nobody describes are found: trained heads, your examples, "
        "a language model, or not at all.",
    )
    inference_heads: Path | None = Field(
        None, description="The heads' file; by default the one for all-MiniLM-L6-v2 that ships."
    )
    inference_examples: Path | None = Field(
        None, description="For `library`: JSON lines of a description and an input each."
    )
    inference_model: str | None = Field(
        None, description="For `llm`: a model by litellm's name, e.g. openai/gpt-4o-mini."
    )
    inference_timeout_s: float = Field(
        2.0, gt=0, description="For `llm`: then the heads' own answer is taken."
    )
    generation_timeout_s: float = Field(
        5.0, gt=0, description="Wait this long for a new adapter, then answer with the base model."
    )
    max_generating: int = Field(64, ge=1, description="Adapters being written at once.")
    generations_per_hour: int = Field(
        1_000, ge=0, description="New adapters an hour for a tenant without a quota of its own."
    )
    max_loss_rise: float = Field(
        1.0,
        ge=0,
        description="Nats a token that an adapter may lose on plain text before it is quarantined.",
    )
    adapter_memory_mib: int = Field(256, ge=1, description="Memory for adapters in use.")
    session_idle_s: int = Field(
        86_400, ge=1, description="After this time without a turn a conversation has ended."
    )
    max_sessions: int = Field(200_000, ge=1, description="Conversations that are remembered.")
    decision_log_days: int = Field(30, ge=1, description="How long decisions stay in the log.")
    max_decisions: int = Field(1_000_000, ge=1, description="Decisions in the log at most.")
    log_descriptions: bool = Field(
        False, description="Log task descriptions as well, not only their hashes."
    )
    shadow: bool = Field(
        False, description="Decide and log, but let the base model answer everything."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people, or a JSON object each."
    )
    tracing: Literal["off", "otlp"] = Field(
        "off", description="OpenTelemetry traces, sent where OTEL_... variables say."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What `t2l serve` writes to stderr."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Name the sources, the strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """
    Read the settings from all sources.

    Args:
        flags: From the command line; None values were not given.

    Raises:
        ConfigError: Naming every bad setting and where it was set.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings(**given)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{FILE} is not TOML: {error}") from None
    except SettingsError as error:  # of a list in an environment variable
        field = str(error).partition('"')[2].partition('"')[0]
        raise ConfigError(f"{PREFIX}{field.upper()} is no JSON") from None
    except ValidationError as error:
        origin = origins(given)
        faults = []
        for fault in error.errors():
            name = str(fault["loc"][0])
            known = name in Settings.model_fields
            what = f"{fault['msg']} (got {fault['input']!r})" if known else "no such setting"
            if name == "upstreams":  # what was given may hold keys
                what = f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}"
            faults.append(f"{name}, from {origin.get(name, str(FILE))}: {what}")
        raise ConfigError("\n".join(["bad settings:", *faults])) from None


def origins(flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Where each setting's value comes from: a flag, an environment variable, the file, nowhere."""
    from_file = TomlConfigSettingsSource(Settings)()
    from_environment = EnvSettingsSource(Settings)()
    found = dict.fromkeys(Settings.model_fields, "default")
    found |= {name: str(FILE.absolute()) for name in from_file}
    found |= {name: f"{PREFIX}{name.upper()}" for name in from_environment}
    found |= {
        name: f"--{name.replace('_', '-')}"
        for name, value in (flags or {}).items()
        if value is not None
    }
    return found


def strangers() -> list[str]:
    """Environment variables that are called as settings are and set nothing, misspelt ones."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX) and name not in known and not _NO_SETTINGS.fullmatch(name)
    )
