"""A real LiteLLM Proxy, in an environment of its own: it pins packages that ours has newer."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import platformdirs
from filelock import FileLock

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "tests" / "integrations" / "litellm-proxy.txt"
KEY = "sk-only-for-tests-0123456789abcdef"
_READY_WITHIN_S = 180


def environment() -> Path:
    """The proxy's environment, made on first use and kept for later runs of the tests."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = platformdirs.user_cache_path("t2l-tests") / f"litellm-proxy-{digest}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            install = ["-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]
            subprocess.run([home / "bin" / "python", *install], check=True)
            (home / "complete").touch()
    return home


@contextmanager
def proxy(config: Path, **variables: str) -> Iterator[str]:
    """Run a LiteLLM Proxy with this configuration; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = environment()
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}  # noqa: TID251
    process = subprocess.Popen(
        [
            home / "bin" / "litellm",
            "--config",
            config,
            "--host",
            "127.0.0.1",
            # By default it closes idle connections after as long as clients keep them.
            "--port",
            str(port),
            "--keepalive_timeout",
            "300",
        ],
        env=kept
        | {
            "PYTHONPATH": str(ROOT),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_MASTER_KEY": KEY,
        }
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(process, url)
        yield url
    finally:
        process.kill()
        process.communicate()


def _wait_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the proxy was not ready within {_READY_WITHIN_S} s")
