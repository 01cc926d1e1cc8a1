"""Our own OpenAPI, chat and admin, against the running server."""

import pytest

from tests.conformance import api


@pytest.mark.slow
def test_openapi():
    """Generated requests of every operation get what the document says, and never a 5xx."""
    assert api.run(2) == 0
