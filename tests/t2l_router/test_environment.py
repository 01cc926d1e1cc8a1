"""What is set for other libraries before they are imported."""

import json
import os
import subprocess
import sys

import pytest

SERVE = """
import json, os, sys
from t2l_router.cli import process, serve
process.serve = lambda *_: print(
    json.dumps([os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules])
)
serve.command.main(["--port", "0"], standalone_mode=False)
"""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "30"}, "30"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_of_a_server_wait_briefly(given, kept, tmp_path):
    """It is set before torch is there to read it; what the user has set stays."""
    ours = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    variables = {k: v for k, v in os.environ.items() if k not in ours}  # noqa: TID251
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        env=variables | given | {"T2L_DATA_DIR": str(tmp_path), "T2L_ENGINE": "echo"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [kept, False]
