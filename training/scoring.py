"""What an answer is worth, by the general metrics and by the task's own."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from t2l_router.errors import ConfigError
from training.corpus import Example, Task
from training.metrics import choice, exact_match, final_number, rouge_l, set_match
from training.sandbox import passes

Scores = dict[str, float]
METRICS = ("rouge_l", "exact_match", "score")


def own_metric(task: Task, example: Example, answer: str) -> float:
    """
    Score an answer by the task's own metric, 0 to 1.

    Raises:
        ConfigError: The corpus names a metric that isn't known.
    """
    match task.metric:
        case "exact_match":
            return exact_match(answer, example.outputs)
        case "rouge_l":
            return rouge_l(answer, example.outputs)
        case "set_match":
            return set_match(answer, example.outputs)
        case "choice_accuracy":
            labels = example.facts.get("labels", ascii_uppercase)
            return choice(answer, example.facts["choices"], example.outputs[0], labels)
        case "final_number":
            return final_number(answer, example.facts["answer"])
        case "pass@1":
            return passes(example.facts.get("prefill", "") + answer, example)
    raise ConfigError(f"{task.name}: unknown metric {task.metric!r}")


def score_task(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> Scores:
    """Give a task's means over its examples, 0 to 100, and how many there were."""
    n = len(examples)
    pairs = list(zip(examples, answers, strict=True))
    return {
        "rouge_l": 100 * sum(rouge_l(text, example.outputs) for example, text in pairs) / n,
        "exact_match": 100 * sum(exact_match(text, example.outputs) for example, text in pairs) / n,
        "score": 100 * sum(own_metric(task, example, text) for example, text in pairs) / n,
        "n": n,
    }


def mean_scores(draws: Sequence[Mapping[str, Scores]]) -> dict[str, dict[str, object]]:
    """
    Average the same tasks' scores over draws of descriptions.

    Returns:
        Task -> means, and the ROUGE-L of every draw where there were several.
    """
    merged: dict[str, dict[str, object]] = {}
    for task, first in draws[0].items():
        merged[task] = {
            metric: sum(draw[task][metric] for draw in draws) / len(draws) for metric in METRICS
        }
        merged[task]["n"] = first["n"]
        if len(draws) > 1:
            merged[task]["rouge_l_by_description"] = [draw[task]["rouge_l"] for draw in draws]
    return merged


def summarise(per_task: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Add the means over tasks to one system's scores."""
    n = len(per_task)
    means = {
        metric: sum(float(str(scores[metric])) for scores in per_task.values()) / n
        for metric in METRICS
    }
    return {**means, "n_tasks": n, "per_task": dict(per_task)}
