"""
The only place that constructs concrete things, from the settings; `application` serves them.

Everything heavy is imported inside the functions, so that importing this module costs nothing.
"""

# ruff: noqa: PLC0415 - importing late is this module's point
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters_store import AdapterStore
from t2l_router.assembly import Making, assemble, build_inference
from t2l_router.config import Settings
from t2l_router.engines import echo_adapters
from t2l_router.engines.base import Engine
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import CheckpointMismatch, ConfigError
from t2l_router.router import Router, ServedModel
from t2l_router.storage import LoraTensors, open_library, operator, warm_up
from t2l_router.writer import Writer

if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from t2l_router.context import ContextReader
    from t2l_router.encoder import TaskEncoder
    from t2l_router.generator import AdapterGenerator
    from t2l_router.lora import LoraWeights
    from t2l_router.models import LocalModel


def _silent(phase: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Writing:
    """
    What turns descriptions into adapters.

    Args:
        base: The base model they are for, on the disk.
        encoder: Description to embedding.
        generator: Embedding to adapter.
    """

    base: "LocalModel"
    encoder: "TaskEncoder"
    generator: "AdapterGenerator"


def build_router(
    settings: Settings,
    *,
    store: AdapterStore | None = None,
    enter: Callable[[str], None] = _silent,
    progress: "Progress | None" = None,
) -> Router:
    """
    Load what the settings name; models that are missing are pulled first.

    Args:
        settings: What to serve.
        store: The library, if it is open already; the router closes it.
        enter: Told what is going on, phase by phase.
        progress: Where bars are drawn for what is pulled.

    Raises:
        ModelError: A model can't be had, or doesn't fit the others.
    """
    if settings.engine == "echo":
        return assemble(
            settings,
            store or open_library(settings, actor="server"),
            ServedModel("echo", echo_adapters.BASE, (settings.base_model,)),
            EchoEngine(delay_s=settings.echo_delay_s),
            Making(
                echo_adapters.EchoEncoder(),
                echo_adapters.EchoGenerator(),
                echo_adapters.EchoTensors(),
                reader=echo_adapters.EchoReader(),
            ),
        )
    if settings.engine == "vllm" and not settings.vllm_urls:  # before anything is loaded
        raise ConfigError("engine is vllm: vllm_urls must name the servers")
    writing = load_writing(settings, enter=enter, progress=progress)
    store = store or open_library(settings, actor="server")
    warm_up(store, writing.encoder, base=writing.base.fingerprint)
    build = _vllm_engine if settings.engine == "vllm" else _local_engine
    return assemble(
        settings,
        store,
        served_model(writing.base, settings.base_model, writing.generator.encoder_name),
        build(settings, writing, enter),
        _making(settings, writing, enter),
    )


def _local_engine(settings: Settings, writing: Writing, enter: Callable[[str], None]) -> Engine:
    from t2l_router.engines.local import EngineLimits, LocalEngine

    enter(f"loading {writing.base.name}")
    model, tokenizer = load_engine_model(writing.base, settings)
    return LocalEngine(
        model,
        tokenizer,
        spec=writing.generator.spec,
        limits=EngineLimits(
            slots=settings.slots,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            kv_memory_mib=settings.kv_memory_mib,
        ),
    )


def _vllm_engine(settings: Settings, writing: Writing, enter: Callable[[str], None]) -> Engine:
    from t2l_router.engines.vllm import VllmEngine, VllmOptions

    enter(f"looking for {len(settings.vllm_urls)} vLLM servers")
    key = settings.vllm_api_key
    return VllmEngine(
        VllmOptions(
            settings.vllm_urls,
            settings.vllm_model or writing.base.name,
            api_key=key.get_secret_value() if key else None,
            max_in_flight=settings.vllm_max_in_flight,
            timeout_s=settings.vllm_timeout_s,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
        )
    )


def build_explainer(
    settings: Settings,
    *,
    enter: Callable[[str], None] = _silent,
    progress: "Progress | None" = None,
) -> Router:
    """
    Build a router that decides as the server does and answers with an echo.

    The base model's weights are loaded only for a hypernetwork that reads with them.
    """
    if settings.engine == "echo":
        return build_router(settings)
    writing = load_writing(settings, enter=enter, progress=progress)
    return assemble(
        settings,
        open_library(settings, actor=operator()),
        served_model(writing.base, settings.base_model, writing.generator.encoder_name),
        EchoEngine(),
        _making(settings, writing, enter),
    )


def _making(settings: Settings, writing: Writing, enter: Callable[[str], None]) -> Making:
    return Making(
        writing.encoder,
        writing.generator,
        LoraTensors(writing.generator.spec),
        build_inference(settings, writing.encoder),
        load_reader(settings, writing, enter=enter),
    )


def load_writing(
    settings: Settings,
    *,
    enter: Callable[[str], None] = _silent,
    progress: "Progress | None" = None,
) -> Writing:
    """Load what writes adapters, without the base model's weights; otherwise as `build_router`."""
    enter("importing torch")
    from transformers import AutoConfig

    from t2l_router import checkpoint
    from t2l_router.encoder import TaskEncoder
    from t2l_router.generator import AdapterGenerator
    from t2l_router.lora import LoraSpec
    from t2l_router.models import pull

    enter(f"loading the hypernetwork {settings.hypernet}")
    hypernet = checkpoint.from_pretrained(settings.hypernet)
    lora = hypernet.config.lora
    enter(f"getting {settings.base_model}")
    base = pull(settings.base_model, cache_dir=settings.cache_dir, progress=progress)
    spec = LoraSpec.from_config(
        AutoConfig.from_pretrained(base.path),
        base_model=base.name,
        base_fingerprint=base.fingerprint,
        targets=[module.name for module in lora.modules],
        rank=lora.rank,
    )
    generator = AdapterGenerator(
        hypernet,
        hypernet_id=checkpoint.hypernet_id(settings.hypernet),
        base=spec,
        device=torch_device(settings.device),
    )
    encoder_name = settings.encoder or generator.encoder_name
    enter(f"getting {encoder_name}")
    local_encoder = pull(encoder_name, cache_dir=settings.cache_dir, progress=progress)
    enter(f"loading {encoder_name}")
    encoder = TaskEncoder.load(
        local_encoder,
        device=torch_device(settings.device),
        lora=checkpoint.encoder_lora(settings.hypernet),
    )
    if encoder.fingerprint != hypernet.config.encoder_fingerprint:
        raise CheckpointMismatch(
            f"the hypernetwork was trained with another encoder than {encoder_name} as it is here; "
            f"it needs {generator.encoder_name} with fingerprint "
            f"{hypernet.config.encoder_fingerprint[:12]}, not {encoder.fingerprint[:12]}"
        )
    # The first forward is slow, and what can't work should fail now rather than in a request.
    generator.generate(encoder.embed(["warm up"]))
    return Writing(base, encoder, generator)


def load_writer(
    settings: Settings, writing: Writing, *, enter: Callable[[str], None] = _silent
) -> "Writer[LoraWeights]":
    """Put together what writes adapters outside of a router."""
    reader = load_reader(settings, writing, enter=enter)
    return Writer(writing.encoder, writing.generator, reader)


def load_reader(
    settings: Settings, writing: Writing, *, enter: Callable[[str], None] = _silent
) -> "ContextReader | None":
    """Load what reads tasks by token; None where the hypernetwork takes embeddings alone."""
    import torch

    from t2l_router.context import ContextReader
    from t2l_router.models.load import load_base

    reads = writing.generator.reads
    if reads is None:
        return None
    enter(f"loading {writing.base.name} to read tasks with")
    # The engine's own model can't be used: its weights are rounded, and another thread runs it.
    device = torch_device(settings.device)
    # Without products in bfloat16 a CPU takes several times as long for them.
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model, tokenizer = load_base(writing.base, dtype=dtype, device=device)
    reader = ContextReader(model, tokenizer, reads.depths)
    reader.read(writing.encoder.embed(["warm up"]), ["warm up"], [()])
    return reader


def served_model(base: "LocalModel", configured: str, encoder: str) -> ServedModel:
    """The base model as clients know it: by its name, its short name, or as it was configured."""
    from t2l_router.models import KNOWN_MODELS

    short = tuple(known.short_name for known in KNOWN_MODELS if known.name == base.name)
    return ServedModel(base.name, base.fingerprint, (*short, configured), encoder)


def torch_device(wanted: str) -> str:
    """
    The device that a setting asks for; auto takes a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no CUDA device; use auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def load_engine_model(
    base: "LocalModel", settings: Settings
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """
    Load the base model in the numbers that the settings ask for.

    Raises:
        ConfigError: They ask for rounded weights on a GPU.
    """
    import torch

    from t2l_router.engines.native.build import library
    from t2l_router.engines.quantise import quantise
    from t2l_router.models import load_base

    device, wanted = torch_device(settings.device), settings.dtype
    if wanted in ("int8", "int4") and device != "cpu":
        raise ConfigError(f"dtype {wanted} is for CPUs; use auto, or device cpu")
    if wanted == "auto":
        wanted = "bfloat16"
    dtype = torch.float32 if wanted == "float32" else torch.bfloat16
    model, tokenizer = load_base(base, dtype=dtype, device=device)
    if device == "cpu" and wanted != "float32":
        quantise(model, wanted, library(settings.cache_dir) if wanted == "bfloat16" else None)
    return model, tokenizer
