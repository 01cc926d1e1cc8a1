"""``t2l chat`` as somebody at a terminal sees it."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from tests.e2e.program import command, environment, serving


class Terminal:
    """A ``t2l chat`` that believes it runs in a terminal."""

    def __init__(self, cwd, *args):
        ours, theirs = pty.openpty()
        self.terminal = ours
        self.seen = ""
        self.process = subprocess.Popen(
            command("chat", *args),
            cwd=cwd,
            env=environment(cwd, TERM="dumb"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def wait_for(self, text, seconds=20.0):
        """Read until *text* shows; what came before it is forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} never came, but {self.seen!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 4_096).decode()
        self.seen = self.seen.partition(text)[2]

    def wait_for_prompt(self):
        """Wait until it listens; readline isn't listening yet when its prompt shows."""
        self.wait_for("> ")
        time.sleep(0.3)

    def end(self):
        """Read what is left, into `seen`, and return the exit code."""
        with contextlib.suppress(OSError):  # a terminal whose program has ended can't be read
            while more := os.read(self.terminal, 4_096):
                self.seen += more.decode()
        os.close(self.terminal)
        return self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("server")
    with serving("--engine", "echo", cwd=cwd, T2L_ECHO_DELAY_S="0.1") as program:
        program.wait_ready()
        yield program.url


def test_examples(server, tmp_path):
    """Examples tell the task until another is set: they are none of the other's."""
    (tmp_path / "loud.jsonl").write_text('{"input": "sun", "output": "SUN"}')
    terminal = Terminal(tmp_path, "--server", server, "--examples", "loud.jsonl")
    terminal.wait_for_prompt()
    terminal.type("moon\n")
    terminal.wait_for("a new adapter was written for these examples")
    terminal.wait_for_prompt()
    terminal.type("/task Say it softly\n")
    terminal.wait_for_prompt()
    terminal.type("moon\n")
    terminal.wait_for("a new adapter was written for this description")
    terminal.wait_for_prompt()
    terminal.type("/quit\n")
    assert terminal.end() == 0


def test_conversation(server, tmp_path):
    """Prompts are answered one after another; the task can be set and dropped on the way."""
    terminal = Terminal(tmp_path, "--server", server)
    terminal.wait_for_prompt()
    terminal.type("one two\n")
    terminal.wait_for("[base] one two")
    terminal.wait_for("no task description")
    terminal.type("/task Count\n")
    terminal.type("three\n")
    terminal.wait_for("[t2l-")
    terminal.wait_for("] three")
    terminal.type("/task\n")
    terminal.type("four\n")
    terminal.wait_for("[base] four")
    terminal.type("/what\n")
    terminal.wait_for("/task TEXT sets the task")
    terminal.type("/quit\n")

    assert terminal.end() == 0


def test_bad_line_is_not_the_end(server, tmp_path):
    """A line that can't be obeyed is told, and the conversation goes on."""
    terminal = Terminal(tmp_path, "--server", server)
    terminal.wait_for_prompt()
    terminal.type("/task ...\n")
    terminal.wait_for("Error: the task description holds no word")
    terminal.type("one\n")
    terminal.wait_for("[base] one")
    terminal.wait_for_prompt()
    terminal.type("\x04")  # Ctrl-D

    assert terminal.end() == 0


def test_interrupted_answer(server, tmp_path):
    """Ctrl-C ends the answer, not the conversation, and the server is free again."""
    terminal = Terminal(tmp_path, "--server", server)
    terminal.wait_for_prompt()
    terminal.type("word " * 200 + "\n")
    terminal.wait_for("[base] word word")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("(stopped)")
    terminal.type("one\n")
    terminal.wait_for("[base] one")
    terminal.type("/quit\n")

    assert terminal.end() == 0


def test_interrupted_at_the_prompt(server, tmp_path):
    """Ctrl-C at the prompt ends the conversation."""
    terminal = Terminal(tmp_path, "--server", server)
    terminal.wait_for_prompt()
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 0


def test_interrupted_single_answer(server, tmp_path):
    """Ctrl-C ends a single answer with the exit code for it and without a traceback."""
    terminal = Terminal(tmp_path, "--server", server, "word " * 200)
    terminal.wait_for("[base] word word")
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 130
    assert "Traceback" not in terminal.seen


def test_compare(server, tmp_path):
    """On a terminal the two answers stand side by side."""
    terminal = Terminal(tmp_path, "--server", server, "--compare", "-d", "Compare", "one two")

    assert terminal.end() == 0
    assert "base" in terminal.seen
    assert "adapted" in terminal.seen
    assert "[base] one two" in terminal.seen
    assert "a new adapter was written" in terminal.seen
