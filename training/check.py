"""Whether a folder can be trained on; names every line at fault, in words."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l_router.errors import ConfigError
from training.corpus import open_lines

_MOST_SHOWN = 20
FORMAT = """\
tasks.jsonl holds one task a line:
  {"task": "sort", "descriptions": ["You sort words."], "file": "sort.jsonl"}
and its file one example a line:
  {"input": "b a", "output": "a b"}
docs/training.md has the optional fields."""


@dataclass
class Report:
    """
    What a folder holds.

    Args:
        tasks: Number of tasks.
        examples: Number of their examples.
        splits: The tasks' splits.
        problems: What is wrong, with file and line.
    """

    tasks: int = 0
    examples: int = 0
    splits: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def check(folder: Path, *, described: bool = True) -> Report:
    """
    Read every line of a folder of tasks.

    Args:
        folder: Where tasks.jsonl is.
        described: Every task must have a description; else descriptions may come later.

    Raises:
        ConfigError: Listing what is wrong and showing the format.
    """
    report = Report()
    names: dict[str, int] = {}
    try:
        lines = (folder / "tasks.jsonl").read_text(encoding="utf8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: can't read tasks.jsonl: {error}\n{FORMAT}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"tasks.jsonl:{number}"
        raw = _object(line, where, report)
        if raw is None:
            continue
        before = len(report.problems)
        report.problems += [f"{where}: {problem}" for problem in _task_problems(raw, described)]
        if len(report.problems) > before:
            continue
        if raw["task"] in names:
            first = names[raw["task"]]
            report.problems.append(f"{where}: task {raw['task']!r} is on line {first} already")
        names[raw["task"]] = number
        report.tasks += 1
        report.splits.add(raw.get("split", "train"))
        _check_examples(folder / raw["file"], f"{where}: {raw['file']}", report)
    if not report.tasks and not report.problems:
        report.problems.append("tasks.jsonl: no task")
    if report.problems:
        shown = report.problems[:_MOST_SHOWN]
        more = len(report.problems) - len(shown)
        end = [f"and {more} more"] if more else []
        raise ConfigError("\n".join([f"{folder} can't be used:", *shown, *end, FORMAT]))
    return report


def _task_problems(raw: dict[str, Any], described: bool) -> Iterator[str]:
    for key in ("task", "file"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            yield f'"{key}" must be a text that isn\'t empty'
    if described and (not _is_texts(raw.get("descriptions")) or not raw["descriptions"]):
        yield (
            '"descriptions" must be a list of texts, one at least; several, worded unlike, help; '
            "t2l describe has a language model write them"
        )
    for key in ("terse_descriptions", "eval_descriptions", "descriptions")[: 2 if described else 3]:
        if key in raw and not _is_texts(raw[key]):
            yield f'"{key}" must be a list of texts'
    for key in ("split", "family", "definition", "licence_class", "metric"):
        if key in raw and not isinstance(raw[key], str):
            yield f'"{key}" must be a text'


def _check_examples(path: Path, where: str, report: Report) -> None:
    parts = {"train": 0, "test": 0}
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(filter(str.strip, lines), 1):
                raw = _object(line, f"{where}:{number}", report)
                if raw is None:
                    continue
                if not isinstance(raw.get("input"), str):
                    report.problems.append(f'{where}:{number}: "input" must be a text')
                outputs = raw.get("outputs") or [raw.get("output")]
                if not _is_texts(outputs):
                    report.problems.append(f'{where}:{number}: "output" must be a text')
                part = raw.get("split", "train" if number % 5 else "test")
                if part not in parts:
                    report.problems.append(f'{where}:{number}: "split" must be train or test')
                    continue
                parts[part] += 1
                report.examples += 1
    except (OSError, ValueError) as error:
        report.problems.append(f"{where}: can't be read: {error}")
        return
    if not any(parts.values()):
        report.problems.append(f"{where}: no example")


def _object(line: str, where: str, report: Report) -> dict[str, Any] | None:
    try:
        raw = json.loads(line)
    except ValueError as error:
        report.problems.append(f"{where}: not JSON: {error}")
        return None
    if not isinstance(raw, dict):
        report.problems.append(f"{where}: must be a JSON object")
        return None
    return raw


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
