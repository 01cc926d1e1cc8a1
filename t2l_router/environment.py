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

    GNU's OpenMP lets a thread spin for milliseconds (300,000 turns) for another one, unless its
    threads are more than the cores: then 100 turns. On cores that other programs want as well it
    thereby keeps the other from running, hundreds of times a forward. Variables that the user has
    set stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Longer than threads wait that run; nothing changes where OpenMP takes 100 turns.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
