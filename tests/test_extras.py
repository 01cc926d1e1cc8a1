"""Where an extra is missing, the error names the command that installs it."""

import os
import subprocess
import sys

import pytest

from tests.e2e.program import ROOT

STORE = "from pathlib import Path; from adapters_store import AdapterStore, StoreConfig; "
OPEN = STORE + "AdapterStore.open(StoreConfig({database!r}, {blobs!r}, Path(), {index!r}))"
POSTGRES = "postgresql+psycopg://nobody@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("hidden", "code", "extra"),
    [
        ("langchain_core", "import integrations.langchain", "'.[langchain]'"),
        ("langchain", "from integrations.langchain import T2LMiddleware", "langchain"),
        ("litellm", "import integrations.litellm", "'.[litellm]'"),
        (
            "litellm",
            "from training.describe_model import through_litellm as ask; ask('m', per_call=1)",
            "'.[litellm]'",
        ),
        (
            "opentelemetry",
            "from t2l_router.tracing import open_tracing; open_tracing()",
            "'.[otel]'",
        ),
        ("matplotlib", "import training.analysis_plot", "'.[train]'"),
        ("matplotlib", "import training.reuse_plot", "'.[train]'"),
        (
            "psycopg",
            OPEN.format(database=POSTGRES, blobs="memory://b", index="exact"),
            "'.[postgres]'",
        ),
        (
            "pgvector",
            OPEN.format(database="sqlite://", blobs="memory://b", index="pgvector"),
            "'.[postgres]'",
        ),
        (
            "s3fs",
            OPEN.format(database="sqlite://", blobs="s3://b", index="exact"),
            "'.[s3]'",
        ),
    ],
)
def test_missing_extra(hidden, code, extra, tmp_path):
    """The last line says what to type."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules[{hidden!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"pip install {extra}" in done.stderr.splitlines()[-1]


LOOKED_UP = """
import os, socket, sys
sys.path.insert(0, {root!r})

def refuse(host, *args, **more):
    print("looked up", host)
    raise OSError("no network")

socket.getaddrinfo = refuse
{code}
print("ready", os.environ["LITELLM_LOCAL_MODEL_COST_MAP"])
"""
UPSTREAM = """
from t2l_router.config import Upstream
from t2l_router.engines.upstream import UpstreamEngine
UpstreamEngine([Upstream(name="other", model="openai/other", api_key="x")], timeout_s=1)
"""
LLM = """
from types import SimpleNamespace
from t2l_router.inference_llm import LlmInference
LlmInference(None, SimpleNamespace(judge=None), model="openai/other", timeout_s=1)
"""
INTEGRATION = "import integrations.litellm"
DESCRIBE = """
from training.describe_model import through_litellm
through_litellm("openai/other", per_call=1)
"""


@pytest.mark.parametrize("code", [UPSTREAM, LLM, INTEGRATION, DESCRIBE])
@pytest.mark.parametrize(("given", "kept"), [(None, "True"), ("true", "true")])
def test_litellm_fetches_no_prices(code, given, kept, tmp_path):
    """litellm, imported by us, asks the network for nothing; what the user has set stays."""
    pytest.importorskip("litellm")
    variables = {k: v for k, v in os.environ.items() if not k.startswith("LITELLM_")}  # noqa: TID251
    if given is not None:
        variables["LITELLM_LOCAL_MODEL_COST_MAP"] = given

    done = subprocess.run(
        [sys.executable, "-c", LOOKED_UP.format(root=str(ROOT), code=code)],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == [f"ready {kept}"], done.stderr
