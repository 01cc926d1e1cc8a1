"""Scores of one answer: normalised exact match and ROUGE-L, 0 to 1."""

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
