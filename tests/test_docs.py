"""The guides' Python blocks run, in their order and as one program, against an echo server."""

import re
import subprocess
import sys

import pytest

from tests.e2e.program import ROOT, environment, serving

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(guide: str, cwd) -> str:
    """Run a guide; what it printed."""
    blocks = BLOCK.findall((ROOT / "docs" / guide).read_text())
    with serving("--engine", "echo", cwd=cwd) as server:
        server.wait_ready()
        variables = {
            "T2L_BASE_URL": f"{server.url}/v1",
            "T2L_ENGINE": "echo",
            # The router in the guide's process isn't to meet the server's library.
            "T2L_DATA_DIR": str(cwd / "own"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(blocks)],
            cwd=cwd,
            env=environment(cwd, **variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("guide", "printed"),
    [
        ("langchain.md", ["[base] Good morning!", "generated", "base"]),
        ("litellm.md", ["generated", "what a lovely surprise"]),
    ],
)
def test_guide(guide, printed, tmp_path):
    """A guide does what it says."""
    told = run(guide, tmp_path)
    assert all(words in told for words in printed), told
