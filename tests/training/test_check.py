"""The data-format check: what it lets through, and what it says."""

import gzip
import json

import pytest

from t2l_router.errors import ConfigError
from training.check import check
from training.corpus import load_tasks

TASK = {"task": "sort", "descriptions": ["Sort the words."], "file": "sort.jsonl"}


def folder(tmp_path, tasks: list, examples: list | None = None):
    lines = [task if isinstance(task, str) else json.dumps(task) for task in tasks]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    rows = [{"input": "b a", "output": "a b"}] * 10 if examples is None else examples
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / "sort.jsonl").write_text(text + "\n")
    return tmp_path


def test_the_least_folder(tmp_path) -> None:
    """Three fields a task and two an example are enough; every fifth example is for testing."""
    report = check(folder(tmp_path, [TASK]))
    (task,) = load_tasks(tmp_path, ["train"])

    assert (report.tasks, report.examples, report.splits) == (1, 10, {"train"})
    assert len(list(task.examples("train"))) == 8
    assert len(list(task.examples("test"))) == 2
    assert task.definition == "Sort the words."


def test_gzipped_examples_and_the_shared_corpus(corpus, tmp_path) -> None:
    """Examples may be gzipped; the corpus' own form passes."""
    assert check(corpus).tasks == 6
    folder(tmp_path, [{**TASK, "file": "sort.jsonl.gz"}])
    with gzip.open(tmp_path / "sort.jsonl.gz", "wt") as file:
        file.write(json.dumps({"input": "b", "outputs": ["b", "B"], "split": "test"}) + "\n")
    assert check(tmp_path).examples == 1


@pytest.mark.parametrize(
    ("tasks", "examples", "message"),
    [
        (["{"], None, r"tasks.jsonl:1: not JSON"),
        (["[]"], None, r"tasks.jsonl:1: must be a JSON object"),
        ([], None, "no task"),
        ([{**TASK, "task": ""}], None, '"task" must be a text'),
        ([{**TASK, "descriptions": []}], None, '"descriptions" must be a list of texts, one'),
        ([{**TASK, "descriptions": "Sort."}], None, '"descriptions" must be a list'),
        ([{**TASK, "terse_descriptions": [1]}], None, '"terse_descriptions" must be'),
        ([TASK, TASK], None, "tasks.jsonl:2: task 'sort' is on line 1 already"),
        ([{**TASK, "file": "nothing.jsonl"}], None, "nothing.jsonl: can't be read"),
        ([TASK], [], "sort.jsonl: no example"),
        ([TASK], ["x"], "sort.jsonl:1: not JSON"),
        ([TASK], [{"input": 3, "output": "a"}], 'sort.jsonl:1: "input" must be a text'),
        ([TASK], [{"input": "a"}], 'sort.jsonl:1: "output" must be a text'),
        ([TASK], [{"input": "a", "output": "b", "split": "dev"}], "must be train or test"),
    ],
)
def test_problems_name_their_line(tmp_path, tasks, examples, message) -> None:
    """The error says where, what, and what the format is."""
    with pytest.raises(ConfigError, match=message) as caught:
        check(folder(tmp_path, tasks, examples))
    assert "tasks.jsonl holds one task a line" in str(caught.value)


def test_many_problems_are_counted(tmp_path) -> None:
    """A wrong export doesn't fill the screen."""
    with pytest.raises(ConfigError, match="and 30 more"):
        check(folder(tmp_path, [TASK], [{"input": "a"}] * 50))


def test_no_folder_of_tasks(tmp_path) -> None:
    """An empty folder is told apart from a wrong one."""
    with pytest.raises(ConfigError, match=r"can't read tasks\.jsonl"):
        check(tmp_path)
