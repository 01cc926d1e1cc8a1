"""Our own OpenAPI, chat and admin, against the running server; and requests out of any bounds."""

import pytest

from tests.conformance import api, fuzz


@pytest.mark.slow
def test_openapi():
    """Generated requests of every operation get what the document says, and never a 5xx."""
    assert api.run(2) == 0


@pytest.mark.slow
def test_fuzz():
    """Requests that nobody would send get an answer in OpenAI's form, and never a 5xx."""
    statuses = fuzz.run(3_000)

    assert statuses["5xx"] == 0
    assert statuses["2xx"] >= 300
    assert statuses["4xx"] >= 1_000
