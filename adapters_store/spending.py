"""How much each tenant may ask of the server, and what it has used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, select

from adapters_store.errors import InvalidInput
from adapters_store.keys import touch
from adapters_store.ledger import Ledger
from adapters_store.names import check_name
from adapters_store.schema import api_keys, rate_limits, token_usage


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    One tenant's limits; None is the server's default.

    Args:
        requests_per_minute: Requests.
        tokens_per_minute: Tokens read and written.
        tokens_per_day: The same, between midnight and midnight UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used: requests, and tokens read (prompt) and written (completion)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What a tenant used on one day (UTC)."""

    day: str
    tenant: str
    spent: Spent


class Spending:
    """The tenants' limits and what they have used."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def limit(self, tenant: str, limit: RateLimit) -> None:
        """Give a tenant limits of its own."""
        check_name("tenant", tenant)
        values = asdict(limit)
        if any(value is not None and value < 0 for value in values.values()):
            raise InvalidInput(f"a limit can't be negative: {values}")
        with self._ledger.change() as change:
            change.connection.execute(rate_limits.delete().where(rate_limits.c.tenant == tenant))
            change.connection.execute(rate_limits.insert().values(tenant=tenant, **values))
            change.log(tenant, "limits.set", tenant, **values)
            touch(change)

    def limits(self) -> dict[str, RateLimit]:
        """Every tenant that has limits of its own."""
        with self._ledger.read() as connection:
            rows = connection.execute(select(rate_limits)).mappings()
            return {
                row["tenant"]: RateLimit(
                    row["requests_per_minute"], row["tokens_per_minute"], row["tokens_per_day"]
                )
                for row in rows
            }

    def limit_of(self, tenant: str) -> RateLimit:
        """The tenant's own limits; None values are the server's defaults."""
        return self.limits().get(tenant, RateLimit())

    def record(self, spent: Mapping[str, Spent], used_keys: Mapping[str, datetime]) -> None:
        """
        Add what tenants used to today's counts.

        Args:
            spent: By tenant.
            used_keys: When keys were last used, by their ids.
        """
        with self._ledger.change() as change:
            day = f"{change.now:%F}"
            for tenant, more in spent.items():
                row = and_(token_usage.c.tenant == tenant, token_usage.c.day == day)
                added = change.connection.execute(
                    token_usage.update()
                    .where(row)
                    .values(
                        requests=token_usage.c.requests + more.requests,
                        prompt_tokens=token_usage.c.prompt_tokens + more.prompt_tokens,
                        completion_tokens=token_usage.c.completion_tokens + more.completion_tokens,
                    )
                )
                if not added.rowcount:
                    change.connection.execute(
                        token_usage.insert().values(tenant=tenant, day=day, **asdict(more))
                    )
            for key_id, moment in used_keys.items():
                change.connection.execute(
                    api_keys.update().where(api_keys.c.id == key_id).values(last_used_at=moment)
                )

    def today(self) -> dict[str, Spent]:
        """What each tenant has used since midnight UTC."""
        return {use.tenant: use.spent for use in self.days(1)}

    def days(self, days: int, *, tenant: str | None = None) -> list[DayOfUse]:
        """What was used on the last *days* days, today first."""
        with self._ledger.read() as connection:
            first = self._ledger.database.now(connection) - timedelta(days=days - 1)
            query = select(token_usage).where(token_usage.c.day >= f"{first:%F}")
            if tenant is not None:
                query = query.where(token_usage.c.tenant == tenant)
            ordered = query.order_by(token_usage.c.day.desc(), token_usage.c.tenant)
            return [
                DayOfUse(
                    row.day,
                    row.tenant,
                    Spent(row.requests, row.prompt_tokens, row.completion_tokens),
                )
                for row in connection.execute(ordered)
            ]
