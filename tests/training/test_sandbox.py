"""Model-written code: what passes, and what it can't do."""

import pytest

from training.corpus import Example
from training.sandbox import complete, extract, passes, run

PROMPT = 'def double(x):\n    """Twice x."""\n'
FACTS = {
    "entry_point": "double",
    "test": "def check(f):\n    assert f(2) == 4\n    assert f(0) == 0",
}


def test_a_program_that_ends_passes() -> None:
    """Right code runs to its end; an error or a failed assertion doesn't."""
    assert run("assert 1 + 1 == 2")
    assert not run("assert 1 + 1 == 3")
    assert not run("this is no Python")


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "open('/tmp/t2l-sandbox-test', 'w')",
        "import os; os.mkdir('/tmp/t2l-sandbox-test')",
        "import os, tempfile; os.unlink('/proc/self/exe')",
        "import os; os.kill(os.getppid(), 0)",
        "x = bytearray(3 << 30)",
        "import ctypes; ctypes.CDLL(None).system(b'true') == 0 or exit(1)",
    ],
)
def test_rights_are_gone(program: str) -> None:
    """No network, no other process, no file written or removed, no memory without end."""
    assert run("import os, socket, subprocess, tempfile, ctypes")
    assert not run(program)


def test_files_may_be_read() -> None:
    """Solutions import what they like from the standard library."""
    assert run("import math, collections, re, heapq, json; assert math.gcd(4, 6) == 2")


def test_endless_programs_are_stopped() -> None:
    """CPU time and waiting both have an end."""
    assert not run("while True: pass", seconds=1)
    assert not run("import time; time.sleep(60)", seconds=1)


@pytest.mark.parametrize(
    "answer",
    [
        "return 2 * x",
        "    return 2 * x",
        "y = x\n    return y + x",
        "if x:\n        return 2 * x\n    return 0",
        "if x:\n    return 2 * x\nreturn 0",
        "for _ in range(1):\n    x = 2 * x\nreturn x",
        "def double(x):\n    return 2 * x",
        "Sure:\n```python\ndef double(x):\n    return x + x\n```\nThat doubles x.",
        "return 2 * x\n\ndef main():\n    print(double(3))",
    ],
)
def test_forms_of_a_right_function(answer: str) -> None:
    """Body or whole function, fenced or not, with or without the first indent."""
    assert passes(answer, Example(PROMPT, ("",), FACTS)) == 1


@pytest.mark.parametrize("answer", ["return x", "", "exit(0)", "import os; os._exit(0)", "4"])
def test_wrong_functions_fail(answer: str) -> None:
    """Leaving before the tests is no pass."""
    assert passes(answer, Example(PROMPT, ("",), FACTS)) == 0


def test_mbpp_form() -> None:
    """Tests are statements beside the code."""
    facts = {"test_list": ["assert inc(1) == 2"], "test_setup_code": "one = 1"}
    assert passes("```\ndef inc(x): return x + 1\n```", Example("", ("",), facts)) == 1
    assert passes("def inc(x): return x", Example("", ("",), facts)) == 0


def test_extract_takes_the_first_block() -> None:
    """Text around a fenced block is dropped; an unclosed block counts."""
    assert extract("a\n```python\nx = 1\n```\n```\ny\n```") == "x = 1"
    assert extract("```py\nx = 1") == "x = 1"
    assert extract("x = 1") == "x = 1"


def test_complete_keeps_signature_and_imports() -> None:
    """What the prompt imports is there for a whole function too."""
    code = complete(
        "import math\n" + PROMPT, "def double(x):\n    return math.prod([2, x])", "double"
    )
    assert code.startswith("import math")
