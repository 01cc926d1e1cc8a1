"""Scores of one answer, 0 to 1: words in common, and the metrics of options and arithmetic."""

import re
import string
from collections.abc import Sequence

_DROPPED = str.maketrans("", "", "".join(set(string.punctuation) - set("-+")))


def normalise(text: str) -> str:
    """Lower case, no punctuation but ``-`` and ``+``, single spaces; never empties a symbol."""
    return " ".join(text.lower().translate(_DROPPED).split()) or text.strip()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference after normalisation."""
    given = normalise(answer)
    return float(any(given == normalise(reference) for reference in references))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words, the best over the references."""
    given = normalise(answer).split()
    return max(_rouge_l(given, normalise(reference).split()) for reference in references)


def set_match(answer: str, references: Sequence[str]) -> float:
    """1 if the comma-separated items are those of a reference, in any order."""
    given = {normalise(item) for item in answer.split(",")}
    return float(
        any(given == {normalise(item) for item in reference.split(",")} for reference in references)
    )


def final_number(answer: str, expected: str) -> float:
    """1 if the last number in the answer is the expected one; thousands commas don't count."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    return float(bool(numbers) and _number(numbers[-1]) == _number(expected))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def choice(
    answer: str, choices: Sequence[str], output: str, labels: str = string.ascii_uppercase
) -> float:
    """
    1 if the answer picks the right option.

    An answer picks an option by its letter ("B", "(b)", "B. because", "Answer: B", "The answer is
    B") or by its text; where options have no letters ("True", "False"), by naming the first one.

    Args:
        answer: What the model said.
        choices: The options' texts.
        output: The right answer as the corpus has it: a label, or an option's text.
        labels: The options' names, one character each.
    """
    if output in choices:
        found = re.search(
            r"\b(" + "|".join(map(re.escape, choices)) + r")\b", answer, re.IGNORECASE
        )
        return float(found is not None and found[1].lower() == output.lower())
    return float(_label(answer, choices, labels[: len(choices)]) == output.upper())


def _label(answer: str, choices: Sequence[str], labels: str) -> str | None:
    group = f"([{labels}])"
    # An article is no option: a bare letter counts only in front of punctuation or the end.
    for pattern in (
        rf"answer(?:\s+is)?\s*[:\-]?\s*[(\[*]*{group}\b",
        rf"^\W*{group}(?=[.):\],\n*]|\s*$)",
    ):
        if found := re.search(pattern, answer.strip(), re.IGNORECASE):
            return found[1].upper()
    given = normalise(answer)
    for label, text in zip(labels, choices, strict=True):
        if given and given.startswith(normalise(text)):
            return label
    found = re.search(rf"\b([{labels.removeprefix('A')}])\b", answer)
    return found[1] if found else None


def _rouge_l(given: list[str], wanted: list[str]) -> float:
    row = [0] * (len(wanted) + 1)
    for word in given:
        diagonal = 0
        for j, other in enumerate(wanted):
            above = row[j + 1]
            row[j + 1] = diagonal + 1 if word == other else max(above, row[j])
            diagonal = above
    if not row[-1]:
        return 0.0
    precision, recall = row[-1] / len(given), row[-1] / len(wanted)
    return 2 * precision * recall / (precision + recall)
