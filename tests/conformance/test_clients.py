"""The clients that people use, in the versions that they use, each in a place of its own."""

import json
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.conformance.tools import program
from tests.e2e.program import serving

HERE = Path(__file__).parent


@pytest.fixture(scope="module", name="url")
def _url(tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    with serving("--engine", "echo", cwd=directory) as program:
        program.wait_ready()
        yield f"{program.url}/v1"


@pytest.mark.slow
@pytest.mark.parametrize("requirement", ["openai>=2,<3", "openai>=3,<4"])
def test_openai_python(url, tmp_path, requirement):
    """openai-python 2 and 3: plain, streamed, structured, tools, embeddings, errors, async."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True, timeout=300)

    result = subprocess.run(
        [python, HERE / "openai_client.py", url],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"openai {requirement[8]}.")


@pytest.mark.slow
def test_llm_comply(url):
    """llm-comply finds nothing that OpenAI's format lacks; images are for models that see."""
    command = program("llm-comply", "llm-comply==0.5.0")
    told = subprocess.run(
        [
            command,
            "run",
            "-u",
            url,
            "-k",
            "none",
            "-m",
            "echo",
            "--format",
            "openai-chat",
            "--json",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    results = {result["id"]: result for result in json.loads(told.stdout)["results"]}

    failed = {name for name, result in results.items() if result["status"] == "failed"}
    assert len(results) >= 9
    assert failed == {"chat-image-input"}, told.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")
def test_npm_clients(url, tmp_path):
    """npm's openai and the AI SDK's provider for compatible servers."""
    packages = ["openai@^6", "@ai-sdk/openai-compatible", "ai"]
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", *packages],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"npm can't install here: {installed.stderr[-200:]}")
    shutil.copy(HERE / "clients.mjs", tmp_path)

    result = subprocess.run(
        ["node", "clients.mjs", url],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert result.returncode == 0, result.stderr
