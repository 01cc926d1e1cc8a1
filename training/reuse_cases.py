"""What a library finds for descriptions it hasn't seen, and how far off reusing it would be."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from t2l_router.errors import ConfigError
from t2l_router.guard import contradictions
from t2l_router.lora import LoraWeights
from training.corpus import Task
from training.embeddings import Encoder

Situation = Literal["present", "absent", "opposite"]
Write = Callable[[Sequence[str], NDArray[np.float32]], list[LoraWeights]]
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Described:
    """
    A task's descriptions, divided.

    Args:
        task: The task.
        aliases: The library knows these; the adapter is made from the first.
        queries: Users say these; no alias is among them.
        n_rich: How many of *queries* are in the paper's style; the rest are terse.
    """

    task: Task
    aliases: tuple[str, ...]
    queries: tuple[str, ...]
    n_rich: int


@dataclass(frozen=True, slots=True)
class Query:
    """
    One text that asks for an adapter.

    Args:
        text: The description.
        row: Its embedding's row.
        task: Index of its task; for an opposite, of the entry it contradicts.
        terse: Whether it is typed as in a chat.
        situation: Whether its task is in the library, or only the opposite is.
    """

    text: str
    row: int
    task: int
    terse: bool
    situation: Situation


@dataclass(frozen=True, slots=True)
class Case:
    """
    What the library offers for a query.

    Args:
        query: The query.
        found: Index of the nearest entry.
        alias: That entry's nearest alias.
        score: The cosine of the two.
        margin: Its lead over the best other entry.
        is_contradicted: The guard objects.
        distance: Delta-W distance of the entry's adapter and the one that the query itself gives.
        own_distance: The same for the adapter of the query's own task, found or not.
    """

    query: Query
    found: int
    alias: str
    score: float
    margin: float
    is_contradicted: bool
    distance: float
    own_distance: float


def divide(
    tasks: Sequence[Task], *, aliases: int = 10, queries: int = 2, seed: int = 0
) -> list[Described]:
    """
    Divide each task's descriptions into aliases and queries.

    Args:
        tasks: Those with too few descriptions are left out.
        aliases: Of each task; three in ten are terse.
        queries: Of each task and style.
        seed: Decides which.

    Raises:
        ConfigError: No task has enough.
    """
    n_terse = aliases * 3 // 10
    described = []
    for task in tasks:
        rng = random.Random(f"{seed}/{task.name}")  # noqa: S311 - sampling, not secrets
        rich = rng.sample(sorted(set(task.descriptions)), len(set(task.descriptions)))
        terse = rng.sample(sorted(set(task.terse_descriptions)), len(set(task.terse_descriptions)))
        if len(rich) < aliases - n_terse + queries or len(terse) < n_terse + queries:
            continue
        known = (*rich[queries:][: aliases - n_terse], *terse[queries:][:n_terse])
        described.append(Described(task, known, (*rich[:queries], *terse[:queries]), queries))
    if not described:
        raise ConfigError(f"no task has {aliases} aliases and {2 * queries} more descriptions")
    return described


def find_cases(
    described: Sequence[Described],
    opposites: Sequence[tuple[str, str]],
    *,
    encoder: Encoder,
    write: Write,
    n_aliases: Sequence[int],
) -> dict[int, list[Case]]:
    """
    Search for every query in libraries of several sizes, once with and once without its task.

    Args:
        described: The tasks; all of them are in the library.
        opposites: Pairs; each text is asked for while only the other is in the library.
        encoder: Embeds all texts.
        write: Makes adapters of texts and their embeddings.
        n_aliases: Sizes: how many aliases of each task the library knows.

    Returns:
        Number of aliases -> cases.
    """
    entries = entries_of(described, opposites)
    rows = rows_of(described, opposites)
    embeddings = _embed(encoder, list(rows))
    queries = _queries(described, opposites, rows)
    listed, n_tasks = list(rows), len(described)
    held = _written(write, [aliases[0] for aliases in entries], embeddings, rows)
    searches = {
        n: _search(embeddings, [[rows[a] for a in aliases[:n]] for aliases in entries])
        for n in n_aliases
    }
    cases = {n: list[Case]() for n in n_aliases}
    asked = list({query.row for query in queries})
    by_row: dict[int, list[Query]] = {row: [] for row in asked}
    for query in queries:
        by_row[query.row].append(query)
    for start in track(
        range(0, len(asked), _BATCH), "Comparing adapters", console=Console(stderr=True)
    ):
        batch = asked[start : start + _BATCH]
        written = write([listed[row] for row in batch], embeddings[batch])
        for row, new in zip(batch, written, strict=True):
            distance = cache(lambda entry, new=new: new.delta_distance(held[entry]))
            for query, n in product(by_row[row], n_aliases):
                found = searches[n](row, _hidden(query, n_tasks, len(entries)))
                text = listed[found.alias]
                cases[n].append(
                    Case(
                        query,
                        found.entry,
                        text,
                        found.score,
                        found.margin,
                        is_contradicted=bool(contradictions(query.text, text)),
                        distance=distance(found.entry),
                        own_distance=distance(query.task),
                    )
                )
    return cases


def entries_of(
    described: Sequence[Described], opposites: Sequence[tuple[str, str]]
) -> list[tuple[str, ...]]:
    """Give every entry's aliases: the tasks', then each text of the opposites alone."""
    tasks = [entry.aliases for entry in described]
    return [*tasks, *((text,) for pair in opposites for text in pair)]


def rows_of(described: Sequence[Described], opposites: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Give the row of every text's embedding, as `Query.row` counts them."""
    texts = [text for aliases in entries_of(described, opposites) for text in aliases]
    texts += [text for entry in described for text in entry.queries]
    return {text: row for row, text in enumerate(dict.fromkeys(texts))}


class _Found(NamedTuple):
    entry: int
    alias: int
    score: float
    margin: float


def _queries(
    described: Sequence[Described], opposites: Sequence[tuple[str, str]], rows: dict[str, int]
) -> list[Query]:
    queries = [
        Query(text, rows[text], i, position >= entry.n_rich, situation)
        for i, entry in enumerate(described)
        for position, text in enumerate(entry.queries)
        for situation in ("present", "absent")
    ]
    for i, pair in enumerate(opposites):
        at = len(described) + 2 * i
        for text, other in ((pair[0], at + 1), (pair[1], at)):
            queries.append(Query(text, rows[text], other, terse=True, situation="opposite"))
    return queries


def _hidden(query: Query, n_tasks: int, n_entries: int) -> list[int]:
    """Entries that this query's library lacks."""
    others = [entry for entry in range(n_tasks, n_entries) if entry != query.task]
    return [*others, query.task] if query.situation == "absent" else others


def _search(
    embeddings: NDArray[np.float32], entries: Sequence[Sequence[int]]
) -> Callable[[int, list[int]], _Found]:
    flat = np.concatenate([np.asarray(rows) for rows in entries])
    starts = np.cumsum([0, *map(len, entries)])
    aliases = embeddings[flat]

    def search(row: int, hidden: list[int]) -> _Found:
        scores = aliases @ embeddings[row]
        best = np.maximum.reduceat(scores, starts[:-1])
        best[hidden] = -1
        other, found = np.argsort(best)[-2:]
        nearest = starts[found] + int(scores[starts[found] : starts[found + 1]].argmax())
        margin = best[found] - max(best[other], 0)
        return _Found(int(found), int(flat[nearest]), float(best[found]), float(margin))

    return search


def _embed(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    step = 256
    starts = track(
        range(0, len(texts), step), "Embedding descriptions", console=Console(stderr=True)
    )
    return np.concatenate([encoder.embed(texts[at : at + step]) for at in starts])


def _written(
    write: Write, texts: Sequence[str], embeddings: NDArray[np.float32], rows: dict[str, int]
) -> list[LoraWeights]:
    starts = track(
        range(0, len(texts), _BATCH),
        "Writing the library's adapters",
        console=Console(stderr=True),
    )
    batches = (texts[at : at + _BATCH] for at in starts)
    return [
        weights
        for batch in batches
        for weights in write(batch, embeddings[[rows[text] for text in batch]])
    ]
