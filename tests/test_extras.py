"""Where an extra is missing, the error names the command that installs it."""

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
        ("langchain_core", "import integrations.langchain", "'t2l[langchain]'"),
        ("langchain", "from integrations.langchain import T2LMiddleware", "langchain"),
        ("litellm", "import integrations.litellm", "'t2l[litellm]'"),
        (
            "litellm",
            "from training.describe_model import through_litellm as ask; ask('m', per_call=1)",
            "'t2l[litellm]'",
        ),
        (
            "opentelemetry",
            "from t2l_router.tracing import open_tracing; open_tracing()",
            "'t2l[otel]'",
        ),
        ("matplotlib", "import training.analysis_plot", "'t2l[train]'"),
        ("matplotlib", "import training.reuse_plot", "'t2l[train]'"),
        (
            "psycopg",
            OPEN.format(database=POSTGRES, blobs="memory://b", index="exact"),
            "'t2l[postgres]'",
        ),
        (
            "pgvector",
            OPEN.format(database="sqlite://", blobs="memory://b", index="pgvector"),
            "'t2l[postgres]'",
        ),
        (
            "s3fs",
            OPEN.format(database="sqlite://", blobs="s3://b", index="exact"),
            "'t2l[s3]'",
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
