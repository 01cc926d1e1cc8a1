import json
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from tests.e2e.program import serving, t2l

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "one two three four five"}]}


@pytest.fixture
def port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def test_serve_and_stop(tmp_path):
    """The server answers, and SIGTERM ends it at once when nothing runs."""
    with serving("--engine", "echo", cwd=tmp_path) as program:
        program.wait_ready()
        answer = httpx.post(f"{program.url}/v1/chat/completions", json=CHAT)
        program.process.send_signal(signal.SIGTERM)
        program.process.wait(5)

    assert answer.json()["choices"][0]["message"]["content"].endswith("four five")
    assert program.process.returncode == -signal.SIGTERM


def test_sigterm_finishes_streams(tmp_path):
    """A stream that runs when the server is told to stop is finished, and no new request taken."""
    with serving("--engine", "echo", cwd=tmp_path, T2L_ECHO_DELAY_S="0.3") as program:
        program.wait_ready()
        url = f"{program.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=CHAT | {"stream": True}, timeout=30) as response:
            received = response.iter_text()
            next(received)
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                httpx.post(url, json=CHAT)
            rest = "".join(received)
        program.process.wait(5)

    assert '" five"' in rest
    assert rest.endswith("data: [DONE]\n\n")


def test_interrupt(tmp_path):
    """Ctrl-C ends the server without a traceback."""
    with serving("--engine", "echo", cwd=tmp_path) as program:
        program.wait_ready()
        program.process.send_signal(signal.SIGINT)
        program.process.wait(5)
        said = program.process.stderr.read()

    assert program.process.returncode == 130
    assert "Traceback" not in said


def test_live_while_loading(tmp_path):
    """The port is open before anything is loaded, and the server says what it does."""
    with serving("--engine", "echo", cwd=tmp_path) as program:
        live = httpx.get(f"{program.url}/health/live")

    assert live.status_code == 200


def test_port_in_use(tmp_path, port_in_use):
    """A port in use is one line that says what to do, and exit code 2."""
    result = t2l("serve", "--engine", "echo", "--port", port_in_use, cwd=tmp_path)

    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"can't listen on 127.0.0.1:{port_in_use}: Address already in use" in result.stderr
    assert "--port" in result.stderr


def test_foreign_address(tmp_path):
    """An address that isn't this machine's is one line and exit code 2."""
    result = t2l("serve", "--engine", "echo", "--host", "192.0.2.1", cwd=tmp_path)

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "--host" in result.stderr


def test_network_needs_a_key(tmp_path):
    """The server opens to the network only if there is a key, and then asks everybody for one."""
    refused = t2l("serve", "--engine", "echo", "--host", "0.0.0.0", cwd=tmp_path)
    made = t2l("keys", "create", "acme", "--format", "quiet", cwd=tmp_path)
    with serving("--engine", "echo", "--host", "0.0.0.0", cwd=tmp_path) as program:
        program.wait_ready()
        url = f"{program.url.replace('0.0.0.0', '127.0.0.1')}/v1/chat/completions"
        without = httpx.post(url, json=CHAT)
        bearer = {"authorization": f"Bearer {made.stdout.strip()}"}
        inside = httpx.post(url, json=CHAT, headers=bearer)

    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "t2l keys create" in refused.stderr
    assert (without.status_code, inside.status_code) == (401, 200)


def test_missing_checkpoint(tmp_path):
    """A server that can't load ends by itself, with the reason in one line and its exit code."""
    with serving("--hypernet", str(tmp_path), cwd=tmp_path) as program:
        program.process.wait(60)
        said = program.process.stderr.read()

    assert program.process.returncode == 5
    assert re.search(r"^Error: .*config\.json", said, re.MULTILINE)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("args", "variables", "says"),
    [
        (["--port", "70000"], {}, "port, from --port"),
        (["--engine", "abacus"], {}, "engine, from --engine"),
        ([], {"T2L_SLOTS": "none"}, "slots, from T2L_SLOTS"),
    ],
)
def test_bad_settings(tmp_path, args, variables, says):
    """Bad settings end the program before anything starts."""
    result = t2l("serve", *args, cwd=tmp_path, **variables)

    assert result.returncode == 2
    assert says in result.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving("--engine", "echo", cwd=tmp_path_factory.mktemp("server")) as program:
        program.wait_ready()
        yield program.url


def test_chat_with_a_server(server, tmp_path):
    """``t2l chat --server`` prints the answer on stdout, and how it came about on stderr."""
    result = t2l("chat", "--server", server, "-d", "Count", "one two", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\[t2l-[0-9a-f]{32}\] one two\n", result.stdout)
    assert "a new adapter was written" in result.stderr


def test_chat_from_standard_input(server, tmp_path):
    """Without a prompt, what is piped in is the prompt."""
    result = t2l("chat", "--server", f"{server}/v1", cwd=tmp_path, stdin="one two\n")

    assert result.stdout == "[base] one two\n"


def test_chat_compare(server, tmp_path):
    """``--compare`` shows the base model's answer beside the adapted one's."""
    result = t2l(
        "chat",
        "--server",
        server,
        "--compare",
        "-d",
        "Compare",
        "--format",
        "json",
        "hi",
        cwd=tmp_path,
    )

    answers = json.loads(result.stdout)
    assert answers["base"]["answer"] == "[base] hi"
    assert answers["adapted"]["answer"] == f"[{answers['adapted']['t2l']['adapter']}] hi"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-m", "gpt-4o", "hi"], 3, "no model 'gpt-4o'"),
        (["--temperature", "9", "hi"], 2, "temperature"),
        (["-d", "", "hi"], 2, "empty"),
    ],
)
def test_chat_errors(server, tmp_path, args, code, says):
    """What the server refuses is one line and the exit code that belongs to it."""
    result = t2l("chat", "--server", server, *args, cwd=tmp_path)

    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr


def test_chat_without_server(tmp_path, port_in_use):
    """An address where no t2l answers is exit code 6."""
    result = t2l("chat", "--server", "http://127.0.0.1:1", "hi", cwd=tmp_path)

    assert result.returncode == 6
    assert "is `t2l serve` running?" in result.stderr


def test_chat_when_the_server_goes_away(tmp_path):
    """A server that dies in the middle of an answer is told as such."""
    with serving("--engine", "echo", cwd=tmp_path, T2L_ECHO_DELAY_S="0.3") as program:
        program.wait_ready()
        threading.Timer(3.0, program.process.kill).start()
        result = t2l("chat", "--server", program.url, "word " * 100, cwd=tmp_path)

    assert result.returncode == 6
    assert "no answer from" in result.stderr


@pytest.mark.parametrize(
    ("description", "says"), [("", "empty"), ("?!", "no word"), ("a" * 4_001, "4,001")]
)
def test_generate_bad_description(tmp_path, description, says):
    """A bad description is refused at once, before anything is loaded, and nothing is written."""
    result = t2l("generate", description, "-o", "adapter", "--hypernet", "absent", cwd=tmp_path)

    assert result.returncode == 2
    assert says in result.stderr
    assert not (tmp_path / "adapter").exists()


def test_generate_into_other_data(tmp_path):
    """``--force`` replaces an adapter, and nothing else."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")

    refused = t2l("generate", "Translate", "-o", "thesis", cwd=tmp_path)
    forced = t2l("generate", "Translate", "-o", "thesis", "--force", cwd=tmp_path)

    assert (refused.returncode, forced.returncode) == (4, 4)
    assert "chapter1.tex" in forced.stderr
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
