"""The request path put together from its parts, as the settings say; `bootstrap` loads them."""

# ruff: noqa: PLC0415 - inference strategies are imported when one is chosen
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from adapters_store import AdapterStore
from adapters_store.quotas import Quota
from adapters_store.traffic import Retention
from t2l_router.adapters import Adapters, Tensors
from t2l_router.behind import Behind
from t2l_router.calls import Calls
from t2l_router.choice import PREFIX, Chooser
from t2l_router.config import Settings
from t2l_router.elsewhere import Elsewhere
from t2l_router.engines.base import Engine, MeasuresLoss, Weights
from t2l_router.errors import CheckpointMismatch, ConfigError
from t2l_router.inference import Inference
from t2l_router.inspection import LossInspector
from t2l_router.library import Identity, Library
from t2l_router.maker import Maker
from t2l_router.matching import Limits, Matcher
from t2l_router.router import Options, Router, ServedModel
from t2l_router.sessions import Sessions
from t2l_router.writer import Encoder, Generator, Reader, Writer

if TYPE_CHECKING:
    from t2l_router.encoder import TaskEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Making:
    """
    What makes adapters.

    Args:
        encoder: Description to embedding.
        generator: Embedding to adapter.
        tensors: Adapter to files, and back.
        inference: Conversation to task; None leaves it.
        reader: Task to what the generator reads; None where that takes embeddings alone.
    """

    encoder: Encoder
    generator: Generator[Weights]
    tensors: Tensors
    inference: Inference | None = None
    reader: Reader | None = None


def assemble(
    settings: Settings,
    store: AdapterStore,
    model: ServedModel,
    engine: Engine,
    making: Making,
) -> Router:
    """
    Put a router together.

    Args:
        settings: How it behaves.
        store: The library; the router closes it.
        model: The base model.
        engine: Answers.
        making: Makes adapters.
    """
    idle = timedelta(seconds=settings.session_idle_s)
    retention = Retention(
        idle, settings.max_sessions, timedelta(days=settings.decision_log_days),
        settings.max_decisions,
    )  # fmt: skip
    calls = Calls(store)
    encoder, generator = making.encoder, making.generator
    library = Library(
        calls,
        Identity(model.fingerprint, encoder.fingerprint, generator.hypernet_id),
        budget=Quota(max_generations_per_hour=settings.generations_per_hour),
        lease_s=2 * settings.generation_timeout_s,
    )
    from_library = settings.engine == "vllm"
    adapters = Adapters(
        library,
        making.tensors,
        max_bytes=settings.adapter_memory_mib << 20,
        by_id=from_library,
    )
    behind = Behind(calls, retention=retention)
    shared = is_shared(settings)
    sessions = Sessions(calls, behind, idle=idle, fresh_s=0.0 if shared else 5.0)
    matcher = Matcher(
        maker=Maker(Writer(encoder, generator, making.reader), making.tensors),
        library=library,
        adapters=adapters,
        limits=Limits(settings.generation_timeout_s, settings.max_generating),
        inspector=_inspector(engine, settings),
    )
    return Router(
        engine,
        Chooser(
            model,
            matcher=matcher,
            adapters=adapters,
            sessions=sessions,
            inference=making.inference,
        ),
        matcher=matcher,
        library=library,
        sessions=sessions,
        behind=behind,
        options=Options(
            shadow=settings.shadow,
            log_text=settings.log_descriptions,
            publish_first=from_library,
            shared=shared,
        ),
        elsewhere=build_elsewhere(settings, (model.name, *model.aliases)),
    )


def build_elsewhere(settings: Settings, ours: Collection[str] = ()) -> Elsewhere | None:
    """
    Build what passes requests on to the upstreams; None where there are none.

    Args:
        settings: Name them.
        ours: Names of our own base model, which no upstream may take.

    Raises:
        ConfigError: One of them is wrong, or its name is taken, or nobody has the stand-in's.
    """
    names = [upstream.name for upstream in settings.upstreams]
    if len(set(names)) < len(names):
        raise ConfigError("two upstreams have the same name")
    if taken := [name for name in names if name in ours or name.startswith(PREFIX)]:
        raise ConfigError(f"an upstream can't be called {taken[0]!r}: that is a model of our own")
    if settings.stand_in not in (None, *names):
        raise ConfigError(f"stand_in is {settings.stand_in!r}, but no upstream has that name")
    if not names:
        return None
    from t2l_router.engines.upstream import UpstreamEngine

    engine = UpstreamEngine(settings.upstreams, timeout_s=settings.upstream_timeout_s)
    return Elsewhere(engine, tuple(names), settings.stand_in)


def is_shared(settings: Settings) -> bool:
    """Whether other routers are to be expected: who names a database means to share it."""
    return settings.library_database is not None or settings.workers > 1


def _inspector(engine: Engine, settings: Settings) -> LossInspector | None:
    """What looks at new adapters, where the engine can measure them."""
    if not isinstance(engine, MeasuresLoss):
        return None
    return LossInspector(engine, max_rise=settings.max_loss_rise)


def build_inference(settings: Settings, encoder: "TaskEncoder") -> "Inference | None":
    """
    Build the strategy that the settings name; None is ``off``.

    Raises:
        ConfigError: A setting that it needs is missing or wrong.
        ModelCorrupt: The heads can't be read.
    """
    if settings.inference == "off":
        return None
    from t2l_router import heads
    from t2l_router.inference_head import HeadInference
    from t2l_router.inference_library import LibraryInference, load_examples
    from t2l_router.inference_llm import LlmInference

    try:
        trained = heads.load(settings.inference_heads, encoder=encoder.fingerprint)
    except CheckpointMismatch as error:
        if settings.inference_heads or settings.inference != "head":
            raise
        # The default must not keep anyone from using an encoder that has no heads yet.
        logger.warning("tasks that nobody describes are not inferred: %s", error)
        return None
    if settings.inference == "library":
        if settings.inference_examples is None:
            raise ConfigError("inference is library: inference_examples must name a file")
        return LibraryInference(encoder, trained, load_examples(settings.inference_examples))
    if settings.inference == "llm":
        if settings.inference_model is None:
            raise ConfigError("inference is llm: inference_model must name a model")
        return LlmInference(
            encoder,
            trained,
            model=settings.inference_model,
            timeout_s=settings.inference_timeout_s,
        )
    return HeadInference(encoder, trained)
