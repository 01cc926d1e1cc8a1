"""
The ten benchmarks in the form in which the paper asks them.

Same structure, option labels and beginnings of answers as in the paper's evaluation; the wording is
ours. Elsewhere in this repository the corpus' own inputs are used, letters for every benchmark.

Source: Charakorn et al., Text-to-LoRA, ICML 2025, and its released evaluation.
"""

import dataclasses
from collections.abc import Callable

from training.corpus import Example, Task

_LETTERS, _FROM_0, _FROM_1 = "ABCDEFGH", "01234567", "12345678"
_ONLY = "Respond with nothing but the {kind} of the correct option."


def paper_form(task: Task, example: Example) -> Example:
    """
    Give an example as the paper asks it; examples of other tasks come back as they are.

    Returns:
        The example with its new input and output; ``facts`` may hold ``labels``, the options'
        names, and ``prefill``, what the answer is made to begin with.
    """
    form = _FORMS.get(task.name)
    return form(example) if form else example


def _options(
    lead: str, labels: str, *, kind: str = "letter", option: str = "{label}: {text}"
) -> Callable[[Example], Example]:
    def form(example: Example) -> Example:
        choices = example.facts["choices"]
        listed = [
            option.format(label=label, text=text)
            for label, text in zip(labels, choices, strict=False)
        ]
        text = "\n\n".join([lead, _stem(example), "\n".join(listed), _ONLY.format(kind=kind)])
        return dataclasses.replace(
            example,
            text=text,
            outputs=(labels[example.facts["gold"]],),
            facts={**example.facts, "labels": labels[: len(choices)]},
        )

    return form


def _stem(example: Example) -> str:
    """The question without its heading, options and the line that asks for the answer."""
    text = example.text.split("\nA. ")[0]
    heading, colon, rest = text.partition(": ")
    return rest if colon and heading.isalpha() else text


def _boolq(example: Example) -> Example:
    passage, _, question = _stem(example).partition("\nQuestion: ")
    question = question.split("\nAnswer")[0]
    ask = "Answer with either `true` or `false` and nothing else."
    return dataclasses.replace(example, text=f"{passage}\n\nQuestion: {question}\n\n{ask}")


def _gsm8k(example: Example) -> Example:
    return dataclasses.replace(
        example,
        text=f"Answer the following question: {_stem(example)}",
        facts={**example.facts, "prefill": "Let's think step by step."},
    )


def _code(example: Example) -> Example:
    return dataclasses.replace(example, facts={**example.facts, "prefill": "```python\n"})


_SCIENCE = _options("Answer the question below by choosing the correct option.", _LETTERS)
_FORMS: dict[str, Callable[[Example], Example]] = {
    "bench_arc_challenge": _SCIENCE,
    "bench_arc_easy": _SCIENCE,
    "bench_openbookqa": _options(
        "Complete the passage or answer the question by choosing the correct option.", _LETTERS
    ),
    "bench_hellaswag": _options(
        "Below are an unfinished passage and its possible continuations, of which one is correct. "
        "They are numbered from 0.",
        _FROM_0,
        kind="number",
    ),
    "bench_piqa": _options(
        "Choose the option that answers the question, completes the sentence or solves the "
        "problem. Think of the objects and of how they interact; if both options would do, "
        "choose the more usual one.",
        _FROM_0,
        kind="number",
    ),
    "bench_winogrande": _options(
        "Which option is correct in the following situation?",
        _FROM_1,
        kind="number",
        option="Option {label}: {text}",
    ),
    "bench_boolq": _boolq,
    "bench_gsm8k": _gsm8k,
    "bench_humaneval": _code,
    "bench_mbpp": _code,
}
