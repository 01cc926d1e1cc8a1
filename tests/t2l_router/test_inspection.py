"""New adapters are looked at before others reuse them, and written ones are counted."""

import math

import pytest

from adapters_store.quotas import Quota
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.echo import EchoEngine
from t2l_router.engines.echo_adapters import EchoEncoder, EchoGenerator
from t2l_router.errors import EngineFailed
from t2l_router.inspection import LossInspector
from tests.routers import answer, decide, echo_router, open_store
from tests.t2l_router.test_library import COMPARE_ALL, NEAR, TASK, calibrate


class Measuring(EchoEngine):
    """Says what it was told to say."""

    def __init__(self, *losses: float | None) -> None:
        super().__init__()
        self.losses = list(losses)

    async def neutral_loss(self, adapter):
        """The next loss; the last one again and again."""
        loss = self.losses.pop(0) if len(self.losses) > 1 else self.losses[0]
        if loss == -1:
            raise EngineFailed("no")
        return loss


def adapter() -> AdapterRef:
    (weights,) = EchoGenerator().generate(EchoEncoder().embed(["a"]))
    return AdapterRef(weights.adapter_id, weights)


@pytest.mark.parametrize(
    ("losses", "is_sound"),
    [
        ((3.0, 3.9), True),
        ((3.0, 4.1), False),
        ((3.0, math.nan), False),
        ((3.0, math.inf), False),
        ((3.0, None), True),
        ((None, 9.0), True),
        ((math.nan, 3.0), True),
        ((-1, 9.0), True),
    ],
)
async def test_doubts(losses, is_sound):
    """A loss far above the base model's, or none at all, is evidence; no measurement is none."""
    doubts = await LossInspector(Measuring(*losses), max_rise=1.0).doubts(adapter())

    assert (doubts is None) == is_sound
    assert is_sound or doubts["neutral_loss_of_base"] == 3.0


async def test_spoilt_adapter_is_quarantined(tmp_path):
    """One that spoils plain text serves who waited for it, then nobody; the log says why."""
    router = echo_router(tmp_path, engine=Measuring(3.0, 9.5))
    made, _ = await answer(router, **TASK)
    again = await decide(router, **TASK)
    await router.close()

    assert (made.kind, again.kind) == ("generated", "base")
    with open_store(tmp_path) as store:
        assert store.get(made.adapter.adapter_id, tenant="local").state == "quarantined"
        (entry,) = [e for e in store.history(tenant="local") if e.action == "quarantine"]
    assert entry.detail["neutral_loss"] == 9.5
    assert entry.detail["max_rise"] == 1.0


async def test_adapters_that_are_not_kept_count(tmp_path):
    """An adapter that was written only to be compared counts to the tenant's hour."""
    router = echo_router(tmp_path)
    calibrate(router, COMPARE_ALL)
    await answer(router, **TASK)
    compared, _ = await answer(router, **NEAR)
    with open_store(tmp_path) as store:
        used = store.quotas.usage("local").generations_last_hour
        store.quotas.set("local", Quota(max_generations_per_hour=2))
    over = await decide(router, t2l_description="Write a poem about rain")
    await router.close()

    assert (compared.kind, used) == ("verified", 2)
    assert over.kind == "base"
    assert "generations per hour" in over.reason
