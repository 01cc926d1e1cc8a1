"""The benchmarks as the paper asks them."""

from pathlib import Path

import pytest

from training.benchmarks import paper_form
from training.corpus import Example, Task
from training.scoring import own_metric

LISTED = "\nA. air\nB. water\nAnswer:"


def task(name: str, metric: str) -> Task:
    texts = ("Do it.",)
    return Task(name, "benchmark", "", "own", "", texts, texts, (), Path("x"), metric)


@pytest.mark.parametrize(
    ("name", "heading", "label", "wrong"),
    [
        ("bench_arc_easy", "Question", "B", "A"),
        ("bench_openbookqa", "Question", "B", "A"),
        ("bench_hellaswag", "Context", "1", "0"),
        ("bench_piqa", "Goal", "1", "0"),
        ("bench_winogrande", "Sentence", "2", "1"),
    ],
)
def test_options_get_the_papers_labels(name, heading, label, wrong) -> None:
    """Letters, numbers from 0 or numbers from 1; answers are scored by those labels."""
    known = task(name, "choice_accuracy")
    facts = {"choices": ["air", "water"], "gold": 1}
    asked = paper_form(known, Example(f"{heading}: What do fish breathe? {LISTED}", ("B",), facts))

    assert asked.outputs == (label,)
    assert f"{label}: water" in asked.text
    assert f"{heading}:" not in asked.text
    assert "Answer:" not in asked.text
    assert asked.text.count("What do fish breathe?") == 1
    for answer, score in ((label, 1), (f"Answer: {label}", 1), (f"{label}. water", 1), ("water", 1),
                          (f"The answer is {wrong}", 0), ("", 0)):  # fmt: skip
        assert own_metric(known, asked, answer) == score


def test_boolq() -> None:
    """Passage and question apart; true or false in any case."""
    known = task("bench_boolq", "choice_accuracy")
    text = "Passage: Fish swim.\nQuestion: do fish swim?\nAnswer (True or False):"
    asked = paper_form(known, Example(text, ("True",), {"choices": ["False", "True"], "gold": 1}))

    assert asked.text.startswith("Fish swim.\n\nQuestion: do fish swim?\n\n")
    assert own_metric(known, asked, "true") == 1
    assert own_metric(known, asked, "false") == 0


def test_answers_are_begun() -> None:
    """Arithmetic thinks step by step; code begins with a fence, which scoring puts back."""
    sums = task("bench_gsm8k", "final_number")
    asked = paper_form(sums, Example("Question: 1 + 1?", ("2",), {"answer": "2"}))
    assert asked.facts["prefill"] == "Let's think step by step."
    assert own_metric(sums, asked, "1 + 1 = 2. The answer is 2.") == 1

    code = task("bench_mbpp", "pass@1")
    asked = paper_form(code, Example("Write inc.", ("",), {"test_list": ["assert inc(1) == 2"]}))
    assert own_metric(code, asked, "def inc(x):\n    return x + 1\n```\nThis adds one.") == 1


def test_other_tasks_stay_as_they_are() -> None:
    """Only the ten are asked otherwise."""
    example = Example("b a", ("a b",))
    assert paper_form(task("sort", "exact_match"), example) is example
