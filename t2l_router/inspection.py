"""Whether a new adapter still speaks: its loss on plain text must stay near the base model's."""

import logging
import math

from t2l_router.engines.base import AdapterRef, MeasuresLoss
from t2l_router.errors import AdapterError, EngineError

logger = logging.getLogger(__name__)


class LossInspector:
    """
    Doubts adapters that predict plain text much worse than the base model does.

    Args:
        engine: Measures the loss.
        max_rise: So many nats a token more than the base model's are borne.
    """

    def __init__(self, engine: MeasuresLoss, *, max_rise: float) -> None:
        self._engine = engine
        self._max_rise = max_rise
        self._base: float | None = None

    async def doubts(self, adapter: AdapterRef) -> dict[str, float | int] | None:
        """Give the losses if the adapter's is too high; None if it is sound or can't be told."""
        try:
            if self._base is None:
                self._base = await self._engine.neutral_loss(None)
            # Of a base model that is itself broken no adapter is to blame.
            if self._base is None or not math.isfinite(self._base):
                return None
            loss = await self._engine.neutral_loss(adapter)
        except (AdapterError, EngineError) as error:
            logger.warning("%s was not inspected: %s", adapter.adapter_id, error)
            return None
        if loss is None or loss - self._base <= self._max_rise:
            return None
        return {
            "neutral_loss": round(loss, 4) if math.isfinite(loss) else -1,
            "neutral_loss_of_base": round(self._base, 4),
            "max_rise": self._max_rise,
        }
