"""Training runs on machines that hold torch and transformers but nothing of the server."""

import subprocess
import sys

ABSENT = ("pydantic", "faiss", "sqlalchemy", "fastapi", "litellm", "uvicorn", "alembic")
MODULES = ("sft", "evaluate", "compare", "oracles", "embeddings", "recon")


def test_training_needs_no_server_packages() -> None:
    """The commands that run beside an accelerator import without the server's dependencies."""
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in {MODULES!r}:
    __import__("training." + name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
