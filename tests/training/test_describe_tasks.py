"""Descriptions by a model that is played: kept once, resumed after a kill, told when it fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from t2l_router.cli.main import main
from t2l_router.errors import ConfigError
from tests.answers import answering, send
from tests.e2e.program import ROOT, t2l
from training.check import check
from training.describe_tasks import JOURNAL, DescribingFailed, Plan, describe

NAMES = ("sort", "count", "shout")


@pytest.fixture
def data(tmp_path):
    """Three tasks; two of them have no description."""
    lines = []
    for name in NAMES:
        lines.append({"task": name, "file": f"{name}.jsonl", "note": "kept"})
        rows = [json.dumps({"input": f"{name} {i}", "output": str(i)}) for i in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    lines[0]["descriptions"] = ["Put words in order."]
    lines[0]["eval_descriptions"] = ["Sort words from a to z."]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


def tasks_of(folder):
    lines = (folder / "tasks.jsonl").read_text().splitlines()
    return {task["task"]: task for task in map(json.loads, lines)}


class Model:
    """Says some new descriptions at each call, and some that are known."""

    def __init__(self, name="m", *, new: int = 4, fail_at: int | None = None) -> None:
        self.asked: list[str] = []
        self._name = name
        self._new, self._fail_at, self._lock = new, fail_at, threading.Lock()

    def __call__(self, messages, seed):
        with self._lock:
            self.asked.append(messages[1]["content"])
            n = len(self.asked)
        if n == self._fail_at:
            raise TimeoutError("nobody there")
        texts = [f"Words of {self._name}, call {n}, number {i}." for i in range(self._new)]
        texts += ["put words, in order", "Sort words from A to Z!", "Say what all tasks say."]
        return "\n".join(f"Description {i}: {text}" for i, text in enumerate(texts, 1))


def test_every_task_gets_enough(data):
    """Every task has as many as planned; its own come first, and its line keeps the rest."""
    model = Model()
    advanced = []
    report = describe(Plan(data, "m", per_task=10, parallel=1), model, advance=advanced.append)

    tasks = tasks_of(data)
    assert {len(task["descriptions"]) for task in tasks.values()} == {10}
    assert tasks["sort"]["descriptions"][0] == "Put words in order."
    assert tasks["sort"]["note"] == "kept"
    assert report.added == sum(advanced) == 29
    assert report.calls == len(model.asked) == len(set(model.asked))
    assert check(data).tasks == 3


def test_nothing_twice(data):
    """No two descriptions say the same, within a task, across tasks, or kept for evaluation."""
    describe(Plan(data, "m", per_task=10), Model())

    texts = [text for task in tasks_of(data).values() for text in task["descriptions"]]
    assert len(texts) == len({text.casefold() for text in texts}) == 30
    assert sum("say what all tasks say" in text.casefold() for text in texts) == 1
    assert not any("from a to z" in text.casefold() for text in texts)


def test_same_command_again(data):
    """A run that is through asks nothing more and changes nothing."""
    plan = Plan(data, "m", per_task=5)
    describe(plan, Model())
    written = (data / "tasks.jsonl").read_text()

    model = Model()
    assert describe(plan, model).calls == len(model.asked) == 0
    assert (data / "tasks.jsonl").read_text() == written


def test_more_later(data):
    """A larger number adds to what is there, with other examples in the prompts."""
    first, second = Model("first"), Model("second")
    describe(Plan(data, "m", per_task=5, parallel=1), first)
    before = tasks_of(data)
    describe(Plan(data, "m", per_task=8, parallel=1), second)

    after = tasks_of(data)
    for name in NAMES:
        assert after[name]["descriptions"][:5] == before[name]["descriptions"]
        assert len(set(after[name]["descriptions"])) == 8
    assert not set(first.asked) & set(second.asked)


def test_terse_field(data):
    """Terse descriptions are a list of their own, asked for in their own style."""
    model = Model()
    describe(Plan(data, "m", field="terse_descriptions", per_task=3), model)

    tasks = tasks_of(data)
    assert {len(task["terse_descriptions"]) for task in tasks.values()} == {3}
    assert "descriptions" not in tasks["count"]
    assert "as people type into a chat" in model.asked[0]


def test_model_with_nothing_new(data):
    """A model that repeats itself is given up on, and asked no more by the next run."""
    model = Model(new=0)
    plan = Plan(data, "m", per_task=5, parallel=1)
    report = describe(plan, model)

    assert report.short == NAMES
    # Three dry calls a task; the first call brings the one description that is new.
    assert len(model.asked) == 10
    again = Model(new=0)
    assert describe(plan, again).short == NAMES
    assert not again.asked


def test_failed_call(data):
    """A call that fails costs its task only; the next run asks for that one."""
    plan = Plan(data, "m", per_task=5, parallel=1)
    with pytest.raises(DescribingFailed, match=r"1 task failed, e\.g\. count: TimeoutError: nobod"):
        describe(plan, Model(fail_at=2))
    assert [len(task.get("descriptions", ())) for task in tasks_of(data).values()] == [5, 0, 5]

    model = Model()
    describe(plan, model)
    assert all("Question: count" in text for text in model.asked)
    assert len(tasks_of(data)["count"]["descriptions"]) == 5


def test_wrong_key(data):
    """What fails for all isn't tried for all."""

    def refuse(messages, seed):
        raise PermissionError("wrong key")

    lines = (data / "tasks.jsonl").read_text().splitlines()
    many = [json.loads(lines[1]) | {"task": f"task {i}"} for i in range(50)]
    (data / "tasks.jsonl").write_text("\n".join(map(json.dumps, many)))
    with pytest.raises(DescribingFailed, match=r"3 tasks failed.*wrong key; none came"):
        describe(Plan(data, "m", parallel=1), refuse)


def test_torn_journal(data):
    """A line that a kill cut short is forgotten; a damaged one elsewhere is named."""
    plan = Plan(data, "m", per_task=5, parallel=1)
    describe(plan, Model())
    journal = data / JOURNAL
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"field": "descr')
    describe(plan, Model())
    assert journal.read_bytes() == whole

    journal.write_bytes(b"{}}\n" + whole)
    with pytest.raises(ConfigError, match="jsonl:1 is damaged"):
        describe(plan, Model())


def test_one_run_at_a_time(data):
    """A second run on the same folder is refused while the first is at work."""
    plan = Plan(data, "m", per_task=5, parallel=1)

    def ask(messages, seed):
        with pytest.raises(ConfigError, match="another run"):
            describe(plan, Model())
        return Model()(messages, seed)

    describe(Plan(data, "m", per_task=2, parallel=1), ask)


@pytest.fixture
def provider():
    """A server of OpenAI's form whose model describes; the conversations it was asked."""
    asked = []

    def answer(handler, body):
        asked.append(json.loads(body)["messages"])
        n = len(asked)
        time.sleep(0.02)
        text = "\n".join(f"{i}. Words of call {n}, number {i}." for i in range(1, 3))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        send(handler, 200, json.dumps(reply | {"choices": [choice]}).encode())

    with answering(answer) as url:
        yield url, asked


def arguments(data, url) -> list[str]:
    return [
        "describe", "--data", str(data), "--model", "openai/m", "--api-base", f"{url}/v1",
        "--per-task", "30", "--per-call", "2", "--parallel", "2",
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_run_goes_on(data, provider):
    """What was answered before a kill is not asked again, and nothing of it is lost."""
    url, asked = provider
    command = [sys.executable, "-m", "t2l_router.cli.main", *arguments(data, url)]
    environ = os.environ | {"OPENAI_API_KEY": "k", "PYTHONPATH": str(ROOT)}  # noqa: TID251
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    while len(asked) < 12:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    n_kept = len((data / JOURNAL).read_text().splitlines())
    assert n_kept >= 8
    assert "descriptions" not in tasks_of(data)["count"]

    n_before = len(asked)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {len(task["descriptions"]) for task in tasks_of(data).values()} == {30}
    assert len(asked) - n_before + n_kept == 3 * 15


def test_dry_run(data):
    """A dry run says what would be asked, and writes nothing."""
    before = sorted(data.iterdir())
    args = [*arguments(data, "http://127.0.0.1:1"), "--dry-run", "--format", "json"]
    done = CliRunner().invoke(main, args)

    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["missing"], told["calls"]) == (89, 45)
    assert "Question: sort" in told["prompt"]
    assert sorted(data.iterdir()) == before


def described_here(data, folder, **variables: str) -> list[str]:
    """What ``--model t2l/t2l:base`` writes of the first task, in a process of its own."""
    lines = (data / "tasks.jsonl").read_text().splitlines()
    (data / "tasks.jsonl").write_text(lines[0] + "\n")
    done = t2l(
        "describe", "--data", str(data), "--model", "t2l/t2l:base", "--per-task", "3",
        "--per-call", "3", "--pairs", "2", "--timeout", "600", "--format", "json", cwd=folder,
        **variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["calls"] > 0
    return tasks_of(data)["sort"]["descriptions"][1:]


def test_router_in_this_process(data, tmp_path_factory):
    """A model of ours needs no server; the echo answers, in one line that is no description."""
    assert described_here(data, tmp_path_factory.mktemp("cwd"), T2L_ENGINE="echo") == []
    entries = [json.loads(line) for line in (data / JOURNAL).read_text().splitlines()]
    assert [entry["model"] for entry in entries] == ["t2l/t2l:base"] * 3


@pytest.mark.real
@pytest.mark.slow
def test_local_base_model(data, smollm2, model_cache, tmp_path_factory):
    """The default base model answers without any provider; not all it says is a description."""
    folder = tmp_path_factory.mktemp("cwd")
    written = described_here(data, folder, T2L_CACHE_DIR=str(model_cache))
    assert len(written) <= 2
    assert all(2 <= len(text.split()) <= 80 for text in written)
