"""Test programs in environments of their own, kept for later runs: each brings many packages."""

import shutil
import subprocess
import venv
from pathlib import Path

import platformdirs
from filelock import FileLock


def program(command: str, requirement: str) -> Path:
    """
    A program from PyPI, installed on first use.

    Args:
        command: Its name.
        requirement: Its package, with the version.
    """
    place = "".join(c if c.isalnum() else "-" for c in requirement)
    home = platformdirs.user_cache_path("t2l-tests") / place
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", requirement]
            subprocess.run(pip, check=True, timeout=300)
            (home / "complete").touch()
    return home / "bin" / command
