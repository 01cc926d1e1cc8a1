"""
What other libraries read from the environment as they are imported, set before that.

It needs nothing but Python, so that `integrations.litellm` stays importable in a LiteLLM Proxy.
"""

import os
from pathlib import Path


def share_metrics(directory: Path) -> None:
    """Let processes that are started from now on add up their metrics below *directory*."""
    # The client library of Prometheus reads this when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)


def keep_litellm_home() -> None:
    """
    Have litellm, which is imported next, take the prices that it ships; else it fetches a list.

    A variable that the user has set stays.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def wait_briefly() -> None:
    """
    Have threads that compute together, once torch is imported, soon sleep while they wait.

    GNU's OpenMP lets a thread spin for up to 15 ms for another one, unless there are more threads
    than cores; on busy cores it thereby keeps the other from running, and that many times a
    forward. Variables that the user has set stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # As many turns as it takes itself where there are more threads than cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
