from hypothesis import given
from hypothesis import strategies as st

from adapters_store.spending import RateLimit
from t2l_router.rates import Bucket, Pace


class Clock:
    """A clock that goes when told."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def test_requests_in_a_minute():
    """As many requests as allowed come in at once, the next waits for its share of the minute."""
    clock = Clock()
    pace = Pace(RateLimit(requests_per_minute=3), clock)
    assert [pace.ask().wait_s for _ in range(3)] == [0, 0, 0]

    refused = pace.ask()
    clock.now += refused.wait_s

    assert refused.wait_s == 20
    assert refused.what == "requests"
    assert pace.ask().wait_s == 0


def test_tokens_are_paid_afterwards():
    """An answer larger than the minute's tokens is let in, and the next one waits for it."""
    clock = Clock()
    pace = Pace(RateLimit(tokens_per_minute=60), clock)
    assert pace.ask().wait_s == 0

    pace.spend(180)

    assert pace.ask().wait_s == 121
    assert pace.ask().what == "tokens"


def test_headers():
    """The headers have OpenAI's names and say what is left."""
    pace = Pace(RateLimit(requests_per_minute=60, tokens_per_minute=600), Clock())
    pace.spend(300)

    assert dict(pace.ask().headers) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "300",
        "x-ratelimit-reset-tokens": "30.000s",
    }


def test_no_limit_no_headers():
    """Without limits everything comes in and nothing is said about it."""
    pace = Pace(RateLimit(), Clock())

    assert {(pace.ask().wait_s, pace.ask().headers) for _ in range(1_000)} == {(0.0, ())}


@given(
    per_minute=st.integers(1, 1_000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200),
)
def test_never_more_than_allowed(per_minute, steps):
    """In no stretch of time does more come in than the burst and what refilled meanwhile."""
    now = 0.0
    bucket = Bucket(per_minute, now)
    taken = 0
    for pause, _ in steps:
        now += pause
        while bucket.wait_s(1, now) == 0:
            bucket.take(1, now)
            taken += 1

    assert taken <= per_minute + now * per_minute / 60 + 1e-6
