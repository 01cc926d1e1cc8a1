"""The option ``--examples``: a file with a few of a task's examples."""

import json
from pathlib import Path

import click

from t2l_router.describe import TaskDescription, of_examples, validated
from t2l_router.errors import ConfigError
from t2l_router.examples import Pair, checked


def told(description: str | None, pairs: tuple[Pair, ...]) -> TaskDescription:
    """
    Give the task of a command line.

    Raises:
        UsageError: Nothing tells it.
    """
    if description is None and not pairs:
        raise click.UsageError("Give a description of the task, --examples FILE, or both.")
    text = "" if description is None else validated(description)
    return of_examples(text, pairs) if pairs else TaskDescription(text, "body")


def read_examples(path: Path) -> tuple[Pair, ...]:
    """
    Read a file of examples.

    Raises:
        ConfigError: It is empty, no UTF-8, or a line isn't an input with its output.
        InvalidRequest: An example is empty or too long, or there are too many.
    """
    pairs: list[Pair] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: byte {error.start} can't be read") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            pairs.append((raw["input"], raw["output"]))
            good = all(isinstance(text, str) for text in pairs[-1])
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise ConfigError(
                f"{path}, line {number}: not an example; write one a line, as "
                '{"input": "...", "output": "..."}'
            )
    if not pairs:
        raise ConfigError(f"{path} holds no example")
    return checked(pairs, param=path.name)


def _read(_: click.Context, __: click.Parameter, value: Path | None) -> tuple[Pair, ...]:
    return () if value is None else read_examples(value)


examples_option = click.option(
    "--examples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read,
    help='A few of the task\'s examples, a line each: {"input": "...", "output": "..."}. '
    "For a hypernetwork that reads examples.",
)
