"""Thresholds measured for one encoder and one hypernetwork, kept where all routers find them."""

from dataclasses import dataclass

from sqlalchemy import select

from adapters_store.ledger import Ledger
from adapters_store.names import check_name
from adapters_store.schema import calibrations

EVERYBODY = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    From where on adapters are reused; `t2l_router.policy` says what each number means.

    Args:
        score: None: no score is enough.
        margin: None: no margin is enough.
        verify_score: None: nothing is compared.
        max_distance: Largest delta-W distance for reuse.
        source: How it was measured, for people.
    """

    encoder: str
    hypernet_id: str
    score: float | None
    margin: float | None
    verify_score: float | None
    max_distance: float
    source: str
    tenant: str = EVERYBODY


class Calibrations:
    """The stored thresholds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def set(self, calibration: Calibration) -> None:
        """Use these thresholds from now on; routers see them within a minute."""
        if calibration.tenant != EVERYBODY:
            check_name("tenant", calibration.tenant)
        table = calibrations.c
        values = {
            name: getattr(calibration, name)
            for name in (
                "encoder", "hypernet_id", "tenant",
                "score", "margin", "verify_score", "max_distance", "source",
            )
        }  # fmt: skip
        with self._ledger.change() as change:
            change.connection.execute(
                calibrations.delete().where(
                    table.encoder == calibration.encoder,
                    table.hypernet_id == calibration.hypernet_id,
                    table.tenant == calibration.tenant,
                )
            )
            change.connection.execute(calibrations.insert().values(**values, at=change.now))
            change.log(
                calibration.tenant or "-",
                "calibration.set",
                calibration.hypernet_id,
                **{key: value for key, value in values.items() if key != "tenant"},
            )

    def get(self, encoder: str, hypernet_id: str, *, tenant: str) -> Calibration | None:
        """The tenant's thresholds, else everybody's, else None."""
        table = calibrations.c
        query = select(calibrations).where(
            table.encoder == encoder,
            table.hypernet_id == hypernet_id,
            table.tenant.in_((tenant, EVERYBODY)),
        )
        with self._ledger.read() as connection:
            row = connection.execute(query.order_by(table.tenant.desc()).limit(1)).first()
        if row is None:
            return None
        return Calibration(
            encoder=row.encoder,
            hypernet_id=row.hypernet_id,
            score=row.score,
            margin=row.margin,
            verify_score=row.verify_score,
            max_distance=row.max_distance,
            source=row.source,
            tenant=row.tenant,
        )
