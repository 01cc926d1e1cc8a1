"""pass@1 of code: a model's program is run with its tests where it can do no harm."""

import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path
from textwrap import indent

from t2l_router.errors import ConfigError
from training.corpus import Example
from training.sandbox_child import REFUSED

_MEMORY = 1 << 30
_STOPS = re.compile(r"\n(?=class |def |#|@|if |print\(|assert |```)")


def run(program: str, *, seconds: int = 5, memory: int = _MEMORY) -> bool:
    """
    Whether a Python program runs to its end, in a process of its own.

    It has no network, no other process, no writable file, *seconds* of time and *memory* bytes.

    Raises:
        ConfigError: This system can't take those rights away, so nothing was run.
    """
    secret = random.randrange(100, 250)  # noqa: S311 - told to nobody
    child = Path(__file__).with_name("sandbox_child.py")
    try:
        done = subprocess.run(  # noqa: S603 - the point of this module
            [sys.executable, "-I", str(child), str(seconds), str(memory), str(secret)],
            input=program,
            encoding="utf8",
            errors="replace",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds + 2,
            env={},
            cwd=os.sep,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode == REFUSED:
        raise ConfigError(
            "generated code is run on Linux with seccomp only; leave out the code benchmarks here"
        )
    return done.returncode == secret


def passes(answer: str, example: Example) -> float:
    """1 if the answer's code passes the example's tests (HumanEval's or MBPP's form)."""
    facts = example.facts
    code = extract(answer)
    if "entry_point" in facts:
        code = complete(example.text, code, facts["entry_point"])
        tests = f"{facts['test']}\ncheck({facts['entry_point']})"
    else:
        tests = "\n".join([facts.get("test_setup_code", ""), *facts["test_list"]])
    return float(run(f"{code}\n{tests}\n"))


def extract(answer: str) -> str:
    """Give the code of an answer: its first fenced block, or all of it."""
    fenced = re.search(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", answer, re.DOTALL)
    return fenced[1] if fenced else answer


def complete(prompt: str, code: str, entry_point: str) -> str:
    """
    Put a function's signature and what a model wrote for it together.

    Args:
        prompt: Imports, signature and docstring.
        code: The whole function, or its body with or without the first line's indent.
        entry_point: The function's name.
    """
    if re.search(rf"^def {re.escape(entry_point)}\b", code, re.MULTILINE):
        return f"{prompt}\n    pass\n{code}"
    body = _STOPS.split(code)[0]
    # Answers are stripped, so the first line's indent is lost, or every line's.
    forms = (f"{prompt}\n{text}" for text in (body, "    " + body, indent(body, "    ")))
    return next(filter(_parses, forms), f"{prompt}\n{body}")


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in model-written strings
            compile(code, "answer.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
