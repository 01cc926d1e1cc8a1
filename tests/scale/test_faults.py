"""Killing parts of a fleet under load: some requests fail, nothing that was answered is lost."""

import pytest

from tests.scale.faults import measure

pytestmark = [pytest.mark.scale, pytest.mark.timeout(1_800), pytest.mark.filterwarnings("ignore")]


def test_kills_under_load(fleet):
    """Clients go on through a router's, the database's and a vLLM server's end."""
    found = measure(fleet, n_clients=4, quiet_s=10)

    assert found["adapters_lost"] == []
    assert found["adapters_named_in_answers"] > 0
    for fault in ("router_killed", "postgres_restarted", "vllm_killed"):
        facts = found[fault]
        assert facts["answer_s"] is not None, facts
        # It is over before the part is back for ten seconds.
        assert facts["last_failure_s"] < facts["whole_again_s"] + 10, facts
