import pytest

from tests.bench.soak_engine import soak


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
async def test_soak(request, fixture):
    """Under random joins, leaves, cancels and evictions each answer is what it is alone."""
    base = request.getfixturevalue(fixture)

    found = await soak(base, seconds=4, check_one_in=2)

    assert found.mismatches == []
    assert found.checked
