"""The program ``t2l`` as its users run it: in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


def command(*args: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "t2l_router.cli.main", *args]


# What the published times were measured with; it is ready sooner than the default.
HYPERNET = "default-sentences"


def environment(cwd: Path, **variables: str) -> dict[str, str]:
    """An environment whose only t2l settings are the given ones, and the smaller hypernetwork."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("T2L_")}  # noqa: TID251
    own = {"T2L_DATA_DIR": str(cwd / "data"), "T2L_HYPERNET": HYPERNET}
    return kept | {"PYTHONPATH": str(ROOT)} | own | variables


def t2l(
    *args: str, cwd: Path, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        env=environment(cwd, **variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass
class Program:
    """A running ``t2l serve``."""

    process: subprocess.Popen[str]
    url: str

    def wait_ready(self, seconds: float = 300) -> float:
        """Wait until it can chat; the seconds that took."""
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            assert self.process.poll() is None, self.process.stderr.read()
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).is_success:
                    return time.monotonic() - start
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready within {seconds} s")


@contextmanager
def serving(*args: str, cwd: Path, **variables: str) -> Iterator[Program]:
    """Run ``t2l serve`` on a free port until the end of the block."""
    process = subprocess.Popen(
        command("serve", "--port", "0", *args),
        cwd=cwd,
        env=environment(cwd, **variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = process.stderr.readline()
        assert " serves " in first, first + process.stderr.read()
        yield Program(process, first.split()[2].removesuffix("/v1"))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
