"""
What a command prints, and with which code the program ends.

Data goes to stdout, everything else to stderr.
A command takes `output_option` and calls `Output.table` or `Output.record` once, with plain values;
the format decides how they look:

* ``human``  tables for reading, 80 columns unless the terminal says otherwise
* ``json``   one JSON document with every field; fields are only ever added
* ``quiet``  the first column alone, one value a line, for other commands
* ``auto``   ``human`` on a terminal, tab-separated lines without truncation elsewhere
"""

import datetime as dt
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from http import HTTPStatus
from pathlib import PurePath
from typing import Any, Literal, ParamSpec, TypeVar

import click

from adapters_store import errors as store
from t2l_router import errors

Format = Literal["auto", "human", "json", "quiet"]
P = ParamSpec("P")
R = TypeVar("R")

OK, FAILURE, USAGE, NOT_FOUND, CONFLICT, UNVERIFIED, UNREACHABLE = range(7)
INTERRUPTED = 130
_LEAST_WIDTH = 8
_LEAST_TEXT = 4


def exit_code(error: BaseException) -> int | None:
    """The exit code for an expected error, looked up along its classes; None for a bug of ours."""
    if isinstance(error, errors.CallRefused):
        if error.status == HTTPStatus.NOT_FOUND:
            return NOT_FOUND
        return USAGE if error.status in _MALFORMED else FAILURE
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)


_MALFORMED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
_CODES: dict[type[BaseException], int] = {
    errors.T2LError: FAILURE,
    errors.ConfigError: USAGE,
    errors.RequestError: USAGE,
    errors.UnknownModel: NOT_FOUND,
    errors.UnknownAdapter: NOT_FOUND,
    errors.ModelCorrupt: UNVERIFIED,
    errors.CheckpointMismatch: UNVERIFIED,
    errors.InvalidAdapter: UNVERIFIED,
    OSError: FAILURE,
    FileExistsError: CONFLICT,
    store.StoreError: FAILURE,
    store.NotFound: NOT_FOUND,
    store.Conflict: CONFLICT,
    store.InvalidInput: USAGE,
    store.InvalidImport: UNVERIFIED,
    store.VerificationFailed: UNVERIFIED,
    errors.ServerUnreachable: UNREACHABLE,
    errors.ServerTimeout: UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column of a table.

    Args:
        key: The row's key.
        title: One word, shown in capitals.
        show: The value as people read it; ``json`` shows the value itself.
        right: Align to the right, for numbers.
        wraps: Goes on in the next line where there is no room, instead of being cut.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False
    wraps: bool = False


class Output:
    """Prints a command's results in the format the user chose."""

    def __init__(self, style: Format) -> None:
        self.style = style

    @property
    def is_human(self) -> bool:
        """Whether a person reads the result on a terminal: prose, colour and streaming are fine."""
        return self.style == "human" or (self.style == "auto" and sys.stdout.isatty())

    def table(
        self,
        rows: Sequence[Mapping[str, object]],
        columns: Sequence[Column],
        *,
        nothing: str | None = None,
    ) -> None:
        """
        Print one row a line.

        Args:
            rows: May hold more keys than there are columns; ``json`` prints them all.
            columns: The first is the one that ``quiet`` prints.
            nothing: Tells people what it means that there are no rows, and what would make some.
        """
        if self.style == "json":
            self.json(list(rows))
            return
        if self.style == "quiet":
            self._lines([[str(row[columns[0].key])] for row in rows])
            return
        if nothing is not None and not rows:
            self.note(nothing)
        if not self.is_human:
            titles = [column.title.upper() for column in columns]
            self._lines([titles, *([c.show(row[c.key]) for c in columns] for row in rows)])
        elif rows:
            self._draw(rows, columns)

    def record(self, record: Mapping[str, object]) -> None:
        """Print one thing, a field a line, below it its own; ``quiet`` prints the first alone."""
        if self.style == "json":
            self.json(record)
        elif self.style == "quiet":
            self._lines([[str(next(iter(record.values())))]])
        elif self.is_human:
            _spell(record)
        else:
            self._lines([[key, _text(value)] for key, value in record.items()])

    def done(self, record: Mapping[str, object], text: str) -> None:
        """Say in a line what was done to one thing; ``json`` and ``quiet`` are as in `record`."""
        if self.style in ("json", "quiet"):
            self.record(record)
        else:
            self._lines([[text]])

    def json(self, document: object) -> None:
        """Print one JSON document."""
        click.echo(json.dumps(_finite(document), indent=2, ensure_ascii=False, default=_plain))

    def note(self, text: str) -> None:
        """Tell the user something that is not data, on stderr; ``quiet`` leaves it out."""
        if self.style != "quiet":
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Tell the user what is wrong but doesn't stop the command, on stderr."""
        click.echo(f"Warning: {text}", err=True)

    def _lines(self, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            # A tab or newline inside a value would make a second field or row of it.
            click.echo("\t".join(" ".join(cell.split()) for cell in row))

    def _draw(self, rows: Sequence[Mapping[str, object]], columns: Sequence[Column]) -> None:
        # Lazy: rich costs 60 ms that most commands need not pay.
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
        # Text, not str: a description like "[red]" is data, not markup.
        cells = [[Text(" ".join(c.show(row[c.key]).split())) for c in columns] for row in rows]
        widths = [
            max([len(column.title), *(line[i].cell_len for line in cells)])
            for i, column in enumerate(columns)
        ]
        _squeeze(widths, columns, console.width - 2 * (len(widths) - 1))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column, width in zip(columns, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column.right else "left"
            title = column.title.upper()
            table.add_column(
                title,
                justify=justify,
                width=width,
                no_wrap=not column.wraps,
                overflow=("fold" if column.wraps else "ellipsis"),
            )
        for line in cells:
            table.add_row(*line)
        console.print(table)


def _spell(record: Mapping[str, object], indent: str = "") -> None:
    """Print a field a line, and a field's own fields below it."""
    width = max(map(len, record), default=0) + 2
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            click.echo(f"{indent}{key}")
            _spell(value, f"{indent}  ")
        else:
            click.echo(f"{indent}{key:<{width}}{_text(value)}")


def _squeeze(widths: list[int], columns: Sequence[Column], room: int) -> None:
    """
    Make columns narrower until they fit: left to itself rich squeezes all alike.

    Texts give way first, down to a few characters. The first column is what other commands take,
    and half a number is a wrong one: they give way last.
    """
    texts = [i for i, column in enumerate(columns) if i and not column.right]
    for narrow, least in ((texts, _LEAST_WIDTH), (texts, _LEAST_TEXT), (range(len(widths)), 1)):
        while sum(widths) > room:
            widest = max(narrow, key=lambda i: widths[i], default=None)
            if widest is None or widths[widest] <= least:
                break
            widths[widest] -= 1


def output_option(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the option ``--format`` and an argument ``out``, an `Output`."""

    @click.option(
        "--format",
        "style",
        type=click.Choice(["auto", "human", "json", "quiet"]),
        default="auto",
        show_default=True,
        help="How to print the result.",
    )
    @functools.wraps(command)
    def with_output(*args: Any, style: Format, **kwargs: Any) -> R:
        return command(*args, out=Output(style), **kwargs)

    return with_output


def size(n_bytes: int) -> str:
    """Bytes as people read them, e.g. ``1.8 MiB``."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - the unit's own meaning
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(moment: dt.datetime, now: dt.datetime) -> str:
    """How long ago *moment* was, in one unit, e.g. ``3h``; both with a time zone."""
    seconds = max(0, int((now - moment).total_seconds()))
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, Mapping):
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(_plain(value))


def _finite(value: object) -> object:
    """The same document with None for infinity and NaN, which JSON doesn't have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _finite(asdict(value))
    return value


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
