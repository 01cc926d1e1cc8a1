"""
Whether two task descriptions contradict each other, seen from their words alone.

Embeddings are nearly blind to what turns a task into its opposite: direction, negation, numbers,
languages, output formats. The guard finds these in both texts and reports where *each* says
something the other doesn't; a text that merely says less contradicts nothing.
It is a table, not a model: it knows English, errs both ways (docs/reuse.md has the rates) and can
only make reuse rarer.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import product
from typing import Literal

from t2l_router.guard_words import (
    DECISIVE,
    FILLERS,
    FORMATS,
    LANGUAGES,
    NEGATORS,
    NUMBERS,
    OPPOSITES,
    OUTPUT_VERBS,
    SCALES,
    UNITS,
)

Kind = Literal["numbers", "languages", "formats", "opposites", "negation", "direction", "wording"]
_TOKEN = re.compile(r"->|→|=>|\d+(?:[.,]\d+)*|[a-z+#]+(?:'[a-z]+)?")
_FORWARD = frozenset({"to", "into", "->", "→", "=>", "before", "then"})
_BACKWARD = frozenset({"of", "for", "from", "after"})
_REACH = 3  # words to either side that belong to a negator or a preposition
_SHORT = 12  # content words; of two long texts, one word decides little


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One contradiction.

    Args:
        kind: What differs.
        one: What the first text says, and only it.
        two: What the second says.
    """

    kind: Kind
    one: str
    two: str

    def __str__(self) -> str:
        differ = "differ" if self.kind.endswith("s") else "differs"
        return f"{self.kind} {differ}: {self.one} vs {self.two}"


def contradictions(one: str, two: str) -> tuple[Finding, ...]:
    """
    Report what two task descriptions disagree about; symmetrical but for the order of the values.

    Args:
        one: The request's description.
        two: The adapter's.
    """
    words_one, words_two = _words(one), _words(two)
    found = []
    for kind, facts in _TABLE.items():
        first, second = frozenset(facts(words_one)), frozenset(facts(words_two))
        if first - second and second - first:
            found.append(Finding(kind, _listed(first - second), _listed(second - first)))
    if not found or found[0].kind != "numbers":
        found += _exchanged(words_one, words_two)
    found += _opposites(words_one, words_two)
    found += _negations(words_one, words_two)
    found += _directions(words_one, words_two)
    found += _wording(words_one, words_two)
    return tuple(found)


def left_open(one: str, two: str) -> tuple[Finding, ...]:
    """
    Report where the first text takes a side of a pair of opposites that the second leaves open.

    Args:
        one: A request.
        two: The description of a more general task.
    """
    words_one, words_two = _words(one), frozenset(_words(two))
    found = []
    for left, right in DECISIVE:
        sides = [side.intersection(words_one) for side in (left, right)]
        if bool(sides[0]) != bool(sides[1]) and not words_two & (left | right):
            said = next(word for word in words_one if word in left | right)
            found.append(Finding("opposites", said, "either"))
    return tuple(found)


def _words(text: str) -> list[str]:
    return _TOKEN.findall(text.lower().replace("’", "'"))  # noqa: RUF001 - typed by phones


def _listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(values))


def _numbers(words: list[str]) -> Iterator[str]:
    for i, word in enumerate(words):
        if word[0].isdigit():
            yield word.rstrip(".,").replace(",", "")
        # "one" is most often a pronoun: "one of", "the one that".
        elif word in NUMBERS and (word != "one" or UNITS.intersection(words[i + 1 : i + 2])):
            yield NUMBERS[word]


def _exchanged(one: list[str], two: list[str]) -> list[Finding]:
    """The first number that stands where the other text has another, beside the same word."""
    # In one order, whichever text comes first: the alignment depends on it.
    is_turned = one > two
    first, second = (two, one) if is_turned else (one, two)
    if not any(word in NUMBERS or word[0].isdigit() for word in first):
        return []
    for kind, i, i_end, j, j_end in SequenceMatcher(None, first, second).get_opcodes():
        if kind != "replace":
            continue
        for at, other, beside in ((i, j, i - 1), (i_end - 1, j_end - 1, i_end)):
            values = _value(first, at), _value(second, other)
            is_same_place = not FILLERS.issuperset(first[max(beside, 0) : beside + 1])
            if is_same_place and None not in values and values[0] != values[1]:
                told = values[::-1] if is_turned else values
                return [Finding("numbers", *map(str, told))]
    return []


def _value(words: list[str], i: int) -> str | None:
    """The number at a place, unless it is a part of one in several words."""
    word = words[i]
    near = words[max(0, i - 1) : i] + words[i + 1 : i + 2]
    if word[0].isdigit():
        return None if SCALES.intersection(near) else word.rstrip(".,").replace(",", "")
    return None if NUMBERS.keys() & near else NUMBERS.get(word)


def _languages(words: list[str]) -> Iterator[str]:
    return (LANGUAGES[word] for word in words if word in LANGUAGES)


def _formats(words: list[str]) -> Iterator[str]:
    return (FORMATS[word] for word in words if word in FORMATS)


_TABLE: dict[Kind, Callable[[list[str]], Iterator[str]]] = {
    "numbers": _numbers,
    "languages": _languages,
    "formats": _formats,
}


def _opposites(one: list[str], two: list[str]) -> list[Finding]:
    """Pairs of which each text names only the other side."""
    found = []
    for left, right in OPPOSITES:
        sides = [(bool(left.intersection(w)), bool(right.intersection(w))) for w in (one, two)]
        if sorted(sides) == [(False, True), (True, False)]:
            both = left | right
            said = [next(word for word in w if word in both) for w in (one, two)]
            found.append(Finding("opposites", *said))
    return found


def _negations(one: list[str], two: list[str]) -> list[Finding]:
    """Words that one text denies and the other affirms."""
    denied_one, denied_two = _denied(one), _denied(two)
    plain_one, plain_two = {_stem(w) for w in one}, {_stem(w) for w in two}
    only_one = (denied_one - denied_two) & plain_two
    only_two = (denied_two - denied_one) & plain_one
    found = [Finding("negation", f"no {stem}", stem) for stem in sorted(only_one)]
    return found + [Finding("negation", stem, f"no {stem}") for stem in sorted(only_two)]


def _denied(words: list[str]) -> set[str]:
    denied: set[str] = set()
    for i, word in enumerate(words):
        # "whether or not": asks, denies nothing.
        if word in NEGATORS and words[i - 1 : i] not in (["or"], ["if"], ["whether"]):
            reach = [w for w in words[i + 1 : i + 1 + _REACH] if w not in FILLERS]
            denied.update(_stem(w) for w in reach[:1])
    return denied


def _stem(word: str) -> str:
    for ending in ("ations", "ation", "ings", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) > 2:  # noqa: PLR2004 - keep a stem
            return word.removesuffix(ending)
    return word


def _directions(one: list[str], two: list[str]) -> list[Finding]:
    """Pairs that one text takes from left to right and the other from right to left."""
    pairs_one, pairs_two = set(_pairs(one)), set(_pairs(two))
    turned = {(a, b) for a, b in pairs_one if (b, a) in pairs_two}
    turned = {(a, b) for a, b in turned if (b, a) not in pairs_one and (a, b) not in pairs_two}
    return [Finding("direction", f"{a} to {b}", f"{b} to {a}") for a, b in sorted(turned)]


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """What a text turns into what: "X to Y", "Y of X", "given X, name Y", "X before Y"."""
    stems = [None if word in FILLERS else _stem(word) for word in words]
    for i, word in enumerate(words):
        if word not in _FORWARD and word not in _BACKWARD:
            continue
        # Two on the left: in "English sentences into French" the last word isn't the source.
        left = [stem for stem in stems[max(0, i - _REACH) : i] if stem][-2:]
        right = [stem for stem in stems[i + 1 : i + 1 + _REACH] if stem][:1]
        for before, after in product(left, right):
            if before != after:
                yield (before, after) if word in _FORWARD else (after, before)
    yield from _roles(words)


def _roles(words: list[str]) -> Iterator[tuple[str, str]]:
    given = {_stem(w) for i, w in enumerate(words) if _object_of(words, i, {"given", "from"})}
    wanted = {_stem(w) for i, w in enumerate(words) if _object_of(words, i, OUTPUT_VERBS)}
    yield from ((a, b) for a in given - wanted for b in wanted - given)


def _wording(one: list[str], two: list[str]) -> list[Finding]:
    """Short texts that share their words but for one, or but for the order."""
    first, second = ([_stem(w) for w in words if w not in FILLERS] for words in (one, two))
    if first == second or max(len(first), len(second)) > _SHORT or len(first) != len(second):
        return []
    if sorted(first) == sorted(second):
        return [Finding("direction", " ".join(first), " ".join(second))]
    changed = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    return [Finding("wording", *changed[0])] if len(changed) == 1 else []


def _object_of(words: list[str], i: int, verbs: "frozenset[str] | set[str]") -> bool:
    """Whether the word at *i* is the first content word after one of *verbs*."""
    if words[i] in FILLERS or words[i] in verbs:
        return False
    at = i - 1
    while at >= 0 and words[at] in FILLERS and words[at] not in verbs:
        at -= 1
    return at >= 0 and words[at] in verbs
