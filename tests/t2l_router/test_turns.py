import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.turns import N_HASHED, N_SURFACE, request_part, wording


@pytest.mark.parametrize(
    ("text", "request_text"),
    [
        ('Say this in Welsh: "The boat leaves at noon."', "Say this in Welsh"),
        (
            "please shorten this for me: it was a dark and stormy night",
            "please shorten this for me",
        ),
        ("Find the bug:\n```\nx = 1 / 0\n```\nthanks", "Find the bug: thanks"),
        ("Sort these\nb\na\nc is the last line of a rather long list of things", "Sort these"),
        ("shorter", "shorter"),
        ("ratio 3: 4", "ratio 3: 4"),
        ('"All of it is quoted."', '"All of it is quoted."'),
        ("", ""),
    ],
)
def test_request_part(text, request_text):
    """A request stands apart from its material by quotes, a colon or lines."""
    assert request_part(text) == request_text


@given(st.text(max_size=3_000))
def test_any_text(text):
    """Every text has a request part of bounded length and numbers of one shape, always the same."""
    row = wording(text)

    assert len(request_part(text)) <= 300
    assert row.shape == (N_SURFACE + N_HASHED,)
    assert np.isfinite(row).all()
    assert (row == wording(text)).all()
