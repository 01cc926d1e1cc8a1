"""What is set for other libraries before they are imported."""

import json
import os
import subprocess
import sys

import pytest

RUN = """
import json, os, sys
from t2l_router import bootstrap
from t2l_router.cli import main, process

def tell(*_, **__):
    print(json.dumps([os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules]))
    sys.exit()

process.serve = bootstrap.load_writing = tell
main.main({args}, standalone_mode=False)
"""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "30"}, "30"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
@pytest.mark.parametrize("args", [["serve", "--port", "0"], ["generate", "Rhyme", "-o", "x"]])
def test_threads_wait_briefly(args, given, kept, tmp_path):
    """It is set before torch is there to read it; what the user has set stays."""
    ours = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    variables = {k: v for k, v in os.environ.items() if k not in ours}  # noqa: TID251
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(args=args)],
        env=variables | given | {"T2L_DATA_DIR": str(tmp_path), "T2L_ENGINE": "echo"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [kept, False]
