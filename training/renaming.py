"""
Other words for a task's labels, token by token: what can't be known has to be read.

`training.augment` makes tasks of them that are kept; these are drawn anew for each row.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.augment import USUAL, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
Names = Mapping[Ids, Ids]

_LABELS_MOST, _TOKENS_MOST = 8, 8
_COVERED = 0.99
_USUAL, _CAPITALISED, _UPPER = 0.3, 0.3, 0.1  # shares of the renamings


class Renamer:
    """
    Draws other labels, and says them.

    Args:
        tokenizer: The base model's.
        texts: Whose words labels are taken from.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self.words = vocabulary(texts)

    def labels(self, answers: Sequence[Ids]) -> dict[Ids, str]:
        """Give a task's labels, token ids -> text; none if it isn't a choice among a few."""
        common = Counter(answers).most_common(_LABELS_MOST)
        few = sum(count for _, count in common) >= _COVERED * len(answers)
        enough = len(common) > 1 and len(answers) >= 8 * len(common)
        short = all(0 < len(label) <= _TOKENS_MOST for label, _ in common)
        if not (few and enough and short):
            return {}
        return {label: self._text(label) for label, _ in common}

    def rename(self, labels: Mapping[Ids, str], rng: np.random.Generator) -> dict[Ids, Ids]:
        """Choose other words for labels: now and then usual labels, else any words."""
        usual = [list(names) for names in USUAL if len(names) >= len(labels)]
        if usual and rng.random() < _USUAL:
            words = usual[int(rng.integers(len(usual)))]
            rng.shuffle(words)
        else:
            chosen = rng.choice(len(self.words), len(labels), replace=False)
            words = [self.words[i] for i in chosen]
            style = rng.random()
            if style < _CAPITALISED:
                words = [word.capitalize() for word in words]
            elif style < _CAPITALISED + _UPPER:
                words = [word.upper() for word in words]
        ids = self._tokenizer(words[: len(labels)], add_special_tokens=False)["input_ids"]
        return dict(zip(labels, map(tuple, ids), strict=True))

    def tell(self, labels: Mapping[Ids, str], names: Names, rng: np.random.Generator) -> list[int]:
        """
        Say the labels in words that go behind a description.

        Args:
            labels: The task's own.
            names: What they are called instead; may be empty.
            rng: Decides the order and the wording.
        """
        known = list(labels)
        pairs = [
            (labels[known[i]], self._text(names.get(known[i], known[i])))
            for i in rng.permutation(len(known))
        ]
        if not names:
            text = " Answer with one of: " + ", ".join(old for old, _ in pairs) + "."
        else:
            text = (
                " Answer with " + "; ".join(f'"{new}" for "{old}"' for old, new in pairs) + ".",
                " Answer " + ", ".join(f"{new} if {old}" for old, new in pairs) + ".",
                ", say " + ", ".join(f"{new} for {old}" for old, new in pairs),
            )[int(rng.integers(3))]
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, ids: Ids) -> str:
        return str(self._tokenizer.decode(list(ids)))
