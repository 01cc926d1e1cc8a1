"""How fast a tenant may ask: token buckets that refill with time, and their headers."""

from collections.abc import Callable
from dataclasses import dataclass

from adapters_store.spending import RateLimit

_MINUTE_S = 60.0


class Bucket:
    """
    Holds up to a minute's worth and refills evenly.

    It may go below zero, because an answer's tokens are known only when it has ended; whoever
    asks next then waits for longer.

    Args:
        per_minute: What it holds and what it gains in a minute.
        now: The time in seconds.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        """What is in it now."""
        gained = (now - self._at) * self.per_minute / _MINUTE_S
        self._level = min(float(self.per_minute), self._level + gained)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take *amount* out, whether or not it is there."""
        self.level(now)
        self._level -= amount

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until it holds *amount*; more than it can hold counts as full."""
        missing = min(amount, float(self.per_minute)) - self.level(now)
        if missing <= 0:
            return 0.0
        return missing * _MINUTE_S / self.per_minute if self.per_minute else _MINUTE_S


@dataclass(frozen=True, slots=True)
class Admission:
    """
    Whether one more request may come in.

    Args:
        wait_s: Seconds until it may; 0 is now.
        what: Which limit says so, for people.
        headers: OpenAI's ``x-ratelimit-...``, for the limits that there are.
    """

    wait_s: float
    what: str
    headers: tuple[tuple[str, str], ...]


class Pace:
    """
    One tenant's requests and tokens of the last minute, in this process.

    Args:
        limit: None values are no limit.
        clock: The time in seconds.
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        now = clock()
        self._buckets = {
            name: Bucket(per_minute, now)
            for name, per_minute in (
                ("requests", limit.requests_per_minute),
                ("tokens", limit.tokens_per_minute),
            )
            if per_minute is not None
        }

    def ask(self) -> Admission:
        """Count one more request, unless a limit forbids it."""
        now = self._clock()
        waits = {name: bucket.wait_s(1, now) for name, bucket in self._buckets.items()}
        what = max(waits, key=lambda name: waits[name], default="")
        wait_s = waits.get(what, 0.0)
        if not wait_s and "requests" in self._buckets:
            self._buckets["requests"].take(1, now)
        return Admission(wait_s, what, self._headers(now))

    def spend(self, tokens: int) -> None:
        """Take an answer's tokens off the minute's."""
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(tokens, self._clock())

    def _headers(self, now: float) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        for name, bucket in self._buckets.items():
            full_s = bucket.wait_s(bucket.per_minute, now)
            found += [
                (f"x-ratelimit-limit-{name}", str(bucket.per_minute)),
                (f"x-ratelimit-remaining-{name}", str(max(0, int(bucket.level(now))))),
                (f"x-ratelimit-reset-{name}", f"{full_s:.3f}s"),
            ]
        return tuple(found)
