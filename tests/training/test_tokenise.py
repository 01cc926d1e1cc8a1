"""Tokenising many tasks at once, and the benchmarks as the paper asks them."""

import gzip
import json

import numpy as np

from training.corpus import Task, load_tasks
from training.tokenise import Choice, tokenise, tokenise_all


def test_workers_change_nothing(corpus, tokenizer) -> None:
    """Two processes give, in order, what one gives."""
    tasks = load_tasks(corpus, ["train", "validation"])
    choice = Choice(examples=8, instructed=3)

    alone = list(tokenise_all(tasks, tokenizer, choice))
    together = list(tokenise_all(tasks, tokenizer, choice, workers=2))

    assert len(alone) == len(tasks)
    for one, other in zip(alone, together, strict=True):
        for name in ("tokens", "lengths", "answers", "kinds"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_seeds_draw_others(corpus, tokenizer) -> None:
    """Another seed chooses other examples."""
    task = load_tasks(corpus, ["train"])[0]

    drawn = [tokenise(task, tokenizer, Choice(examples=4, seed=seed)).tokens for seed in (0, 1)]

    assert not np.array_equal(*drawn)


def test_too_long_for_plain_prompts(corpus, tokenizer) -> None:
    """A task of which nothing fits without instruction has no tokens at all."""
    task = load_tasks(corpus, ["train"])[0]

    assert not len(tokenise(task, tokenizer, Choice(max_tokens=2)).lengths)


def test_paper_form(tmp_path, tokenizer) -> None:
    """The answer begins after what the paper makes it begin with, and options get its labels."""
    rows = {
        "bench_gsm8k": {"input": "Question: 1 + 1?\nAnswer:", "output": "It is 2.", "answer": "2"},
        "bench_piqa": {
            "input": "Goal: open\nA. push\nB. pull\nAnswer:",
            "output": "B",
            "choices": ["push", "pull"],
            "gold": 1,
        },
    }
    texts = {}
    for name, row in rows.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(gzip.compress(json.dumps({**row, "split": "train"}).encode()))
        task = Task(name, "benchmark", "", "own", "d", ("d",), ("d",), (), path)
        choice = Choice(instructed=0, max_tokens=2000, templates="paper")
        found = tokenise(task, tokenizer, choice)
        at = found.lengths[0] - found.answers[0]
        texts[name] = tokenizer.decode(found.tokens[:at]), tokenizer.decode(found.tokens[at:-1])

    assert texts["bench_gsm8k"][0].endswith("Let's think step by step.")
    assert texts["bench_gsm8k"][1] == "It is 2."
    assert texts["bench_piqa"][1] == "1"
