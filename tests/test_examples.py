"""Every example runs as its first lines say, over the echo engine; some over SmolLM2 too."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest

from tests.e2e.program import ROOT, environment, serving

EXAMPLES = ROOT / "examples"
LANGCHAIN = sorted(path.name for path in EXAMPLES.glob("langchain_*.py"))


def run(name: str, *args: str, cwd, **variables: str) -> str:
    """Run an example as a program; what it printed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *args],
        cwd=cwd,
        env=environment(cwd, **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_short(path):
    """An example fits on a page."""
    assert len(path.read_text().splitlines()) <= 60


def test_two_tasks(tmp_path):
    """Two tasks have two adapters, and small talk none."""
    emotion, grammar, chat = run(
        "langchain_two_tasks.py", cwd=tmp_path, T2L_ENGINE="echo"
    ).splitlines()

    assert emotion.split()[1] == grammar.split()[1] == "generated"
    assert emotion.split()[2] != grammar.split()[2]
    assert chat.split()[1:] == ["base", "[base]", "Good", "morning!"]


def test_rag_style(tmp_path):
    """Both styles answer from the passage that fits, each with its adapter."""
    lines = run("langchain_rag_style.py", "receipt?", cwd=tmp_path, T2L_ENGINE="echo").splitlines()

    assert [line.split(":")[0] for line in lines if "[t2l-" in line] == ["brief", "friendly"]
    assert all("Passage: Expenses" in line for line in lines if "[t2l-" in line)


def test_agent(tmp_path):
    """Each tool answers with an adapter of its own."""
    told = run("langchain_agent.py", cwd=tmp_path, T2L_ENGINE="echo")

    tools = [line.split() for line in told.splitlines() if line.startswith("tool")]
    assert {words[1] for words in tools} == {"emotion_of", "corrected"}
    assert len({words[2] for words in tools}) == 2
    assert "Both done." in told


def test_open_webui_filter(tmp_path):
    """The filter's fields make a chat a session; the administrator's task gives way to a user's."""
    spec = importlib.util.spec_from_file_location("filter", EXAMPLES / "open_webui/t2l_filter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = module.Filter()
    ours.valves.description = "Be brief"
    user = {"valves": SimpleNamespace(description="Rhyme")}
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hi there"}]}

    first = ours.inlet(dict(chat), {"chat_id": "c1"}, user)
    assert (first["t2l_session"], first["t2l_description"]) == ("c1", "Rhyme")
    assert ours.inlet(dict(chat), {"chat_id": "c2"}, {})["t2l_description"] == "Be brief"

    with serving("--engine", "echo", cwd=tmp_path) as server:
        server.wait_ready()
        path = f"{server.url}/v1/chat/completions"
        made = httpx.post(path, json=first, timeout=30).json()
        # The next turn says nothing of the task: the session holds the adapter.
        ours.valves.description = ""
        second = ours.inlet(dict(chat), {"chat_id": "c1"}, {})
        held = httpx.post(path, json=second, timeout=30).json()
        # Without the filter, Open WebUI's own header names the chat, and its own prompts.
        header = {"X-OpenWebUI-Chat-Id": "c1"}
        named = httpx.post(path, json=chat, headers=header, timeout=30).json()
        header["X-OpenWebUI-Task"] = "title_generation"
        title = httpx.post(path, json=chat, headers=header, timeout=30).json()

    assert named["t2l"]["adapter"] == made["t2l"]["adapter"]
    assert title["t2l"]["decision"] == "base"
    assert (made["t2l"]["decision"], held["t2l"]["decision"]) == ("generated", "sticky")
    assert held["t2l"]["adapter"] == made["t2l"]["adapter"]


@pytest.mark.slow
def test_litellm_proxy(tmp_path):
    """The four ways through a LiteLLM Proxy reach the same adapter."""
    from tests.integrations.litellm_proxy import KEY, proxy  # noqa: PLC0415

    with serving("--engine", "echo", cwd=tmp_path) as server:
        server.wait_ready()
        variables = {"T2L_BASE_URL": f"{server.url}/v1", "T2L_API_KEY": "unused"}
        with proxy(EXAMPLES / "litellm_proxy" / "config.yaml", **variables) as url:
            lines = run("litellm_proxy/ask.py", url, KEY, cwd=tmp_path).splitlines()

    assert [line.split()[0] for line in lines] == ["body", "header", "alias", "stream"]
    assert len({line.split()[1] for line in lines}) == 1


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", LANGCHAIN)
def test_with_a_model(name, smollm2, model_cache, tmp_path):
    """The same programs with the default model."""
    assert run(name, cwd=tmp_path, T2L_CACHE_DIR=str(model_cache))
