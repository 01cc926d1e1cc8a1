"""vLLM's hook, filled by `integrations.vllm.adapters`; the only module here that needs vLLM."""

from functools import lru_cache
from http import HTTPStatus

from adapters_store.errors import StoreUnavailable
from integrations.vllm.adapters import LocalAdapters, log
from integrations.vllm.base_model import base_fingerprint
from integrations.vllm.settings import ResolverSettings
from integrations.vllm.sources import open_source
from t2l_router.errors import AdapterRefused, ModelError

try:
    from vllm.exceptions import GracefulHTTPError, VLLMValidationError
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver
except ModuleNotFoundError as error:
    raise ImportError(
        "integrations.vllm.T2LResolver runs inside of vLLM (0.32 or newer)"
    ) from error


class T2LResolver(LoRAResolver):  # type: ignore[misc] # vLLM is not here to be looked at
    """
    Loads an adapter of the t2l library when a request first names its id as ``model``.

    What vLLM answers: 404 for a name that is unknown or no id, 400 for an adapter that is there
    but refused, 503 while adapters can't be fetched.

    Args:
        settings: Where adapters come from and where they are kept.
    """

    def __init__(self, settings: ResolverSettings) -> None:
        self._settings = settings
        # One server has one base model, but names it only when it first asks.
        self._adapters_on = lru_cache(maxsize=1)(self._open)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of this id on the local disk, verified; None where nobody knows it."""
        try:
            path = await self._adapters_on(base_model_name).directory(lora_name)
        except AdapterRefused as error:
            # vLLM's own words for an adapter that is there and no good: routers know them.
            text = f"LoRA adapter '{lora_name}' was found but could not be loaded: {error}"
            raise VLLMValidationError(text, parameter="model") from error
        except (StoreUnavailable, ModelError, OSError) as error:
            text = f"adapters can't be fetched: {error}"
            raise GracefulHTTPError(text, HTTPStatus.SERVICE_UNAVAILABLE) from error
        if path is None:
            return None
        # vLLM sets the number itself; it only may not be 0.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(path))

    def _open(self, base_model_name: str) -> LocalAdapters:
        settings = self._settings
        log.info("t2l: adapters come from %s, copies in %s", settings.source, settings.cache_dir)

        @lru_cache(maxsize=1)
        def base() -> str:
            model = settings.base_model or base_model_name
            found = base_fingerprint(model, cache_dir=settings.cache_dir / "base")
            log.info("t2l: base model %s has the fingerprint %s", model, found)
            return found

        return LocalAdapters(
            open_source(settings),
            settings.cache_dir / "adapters",
            base=base,
            max_bytes=settings.cache_max_mib << 20,
            unknown_for_s=settings.unknown_for_s,
        )
