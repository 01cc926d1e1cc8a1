import datetime as dt
import json
import math
from pathlib import Path

import click
import pytest

from t2l_router.cli.output import Column, Output, age, size

COLUMNS = [Column("id", "id"), Column("n_bytes", "size", size, right=True)]
ROWS = [
    {"id": "t2l-1", "n_bytes": 1_900_000, "path": Path("library") / "t2l-1"},
    {"id": "t2l-2", "n_bytes": 3, "path": None},
]


def test_table_human(capsys):
    """People get aligned columns with capital titles."""
    Output("human").table(ROWS, COLUMNS)

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["ID        SIZE", "t2l-1  1.8 MiB", "t2l-2      3 B"]


def test_table_fits_80_columns(capsys):
    """Off a terminal a table is 80 columns wide at most; a long value ends in an ellipsis."""
    Output("human").table(
        [{"id": "t2l-1", "text": "word " * 40}], [Column("id", "id"), Column("text", "text")]
    )

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" in lines[1]


def test_table_uses_all_of_80_columns(capsys):
    """What fits into 80 columns is whole."""
    row = {"id": "t2l-1", "text": "x" * 73}
    Output("human").table([row], [Column("id", "id"), Column("text", "text")])

    assert capsys.readouterr().out.splitlines()[1] == f"t2l-1  {row['text']}"


def test_record_without_values(capsys):
    """An empty list is told as nothing is."""
    Output("auto").record({"tags": [], "source": None})

    assert capsys.readouterr().out == "tags\t-\nsource\t-\n"


def test_record_within_a_record(capsys):
    """People read a field's own fields below it; lines for programs stay one a field."""
    record = {"decision": "exact", "nearest": {"adapter": "t2l-1", "score": 0.5}, "task": {}}
    Output("human").record(record)
    people = capsys.readouterr().out
    Output("auto").record(record)

    assert people.splitlines() == [
        "decision  exact",
        "nearest",
        "  adapter  t2l-1",
        "  score    0.5",
        "task      {}",
    ]
    assert 'nearest\t{"adapter": "t2l-1", "score": 0.5}\n' in capsys.readouterr().out


def test_narrow_table(capsys, monkeypatch):
    """Where there is little room texts are cut, what names a row and numbers are not."""
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    rows = [
        {"id": "t2l-1234abcd", "text": "word " * 40, "state": "quarantined", "n_bytes": 937_529}
    ]
    texts = [Column("text", "text"), Column("state", "state")]
    Output("human").table(rows, [COLUMNS[0], *texts, COLUMNS[1]])

    title, line = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(len(title.rstrip()), len(line.rstrip())) <= 44
    assert line.startswith("t2l-1234abcd  word")
    assert line.rstrip().endswith("…  915.6 KiB")


def test_table_keeps_brackets(capsys):
    """Square brackets in data are not markup."""
    Output("human").table([{"id": "[red]x[/red]"}], [Column("id", "id")])

    assert "[red]x[/red]" in capsys.readouterr().out


def test_table_json(capsys):
    """JSON holds every field, also those without a column."""
    Output("json").table(ROWS, COLUMNS)

    first, second = json.loads(capsys.readouterr().out)
    assert first == {"id": "t2l-1", "n_bytes": 1_900_000, "path": "library/t2l-1"}
    assert second["path"] is None


def test_empty_table(capsys):
    """People read that there is nothing; programs get an empty list, or the titles alone."""
    told = {}
    for style in ("human", "auto", "json", "quiet"):
        Output(style).table([], COLUMNS, nothing="No adapters; make one.")
        told[style] = tuple(capsys.readouterr())

    assert told == {
        "human": ("", "No adapters; make one.\n"),
        "auto": ("ID\tSIZE\n", "No adapters; make one.\n"),
        "json": ("[]\n", ""),
        "quiet": ("", ""),
    }


def test_table_quiet(capsys):
    """Quiet prints the first column alone."""
    Output("quiet").table(ROWS, COLUMNS)

    assert capsys.readouterr().out == "t2l-1\nt2l-2\n"


def test_table_auto_piped(capsys):
    """Off a terminal the default is tab-separated and never cut."""
    Output("auto").table([{"id": "a\tb\nc", "n_bytes": 1}], COLUMNS)

    assert capsys.readouterr().out == "ID\tSIZE\na b c\t1 B\n"


@pytest.mark.parametrize(
    ("style", "printed"),
    [
        ("human", "id    t2l-1\ntags  a, b\n"),
        ("auto", "id\tt2l-1\ntags\ta, b\n"),
        ("quiet", "t2l-1\n"),
        ("json", '{\n  "id": "t2l-1",\n  "tags": [\n    "a",\n    "b"\n  ]\n}\n'),
    ],
)
def test_record(capsys, style, printed):
    """One thing is printed a field a line."""
    Output(style).record({"id": "t2l-1", "tags": ["a", "b"]})

    assert printed == capsys.readouterr().out


def test_numbers_for_people(capsys):
    """People get six digits, programs all."""
    Output("human").record({"delta_norm": 207.18697592437667, "rank": 8})
    Output("json").record({"delta_norm": 207.18697592437667})

    shown = capsys.readouterr().out
    assert "207.187\n" in shown
    assert "207.18697592437667" in shown


def test_json_has_no_infinity(capsys):
    """What JSON has no number for is null, within lists and dataclasses too."""
    Output("json").record({"score": math.inf, "rows": [math.nan, 1.5], "column": COLUMNS[0]})

    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (shown["score"], shown["rows"], shown["column"]["key"]) == (None, [None, 1.5], "id")


def test_notes_stay_off_stdout(capsys):
    """Notes and warnings never mix with data."""
    Output("json").note("pulled")
    Output("quiet").note("not shown")
    Output("quiet").warn("disk nearly full")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "pulled\nWarning: disk nearly full\n"


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_size(n_bytes, text):
    """Bytes are shown in the largest unit that keeps them above one."""
    assert text == size(n_bytes)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7_300, "2h"), (200_000, "2d")]
)
def test_age(seconds, text):
    """An age is shown in one unit, rounded down."""
    now = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)

    assert text == age(now - dt.timedelta(seconds=seconds), now)
