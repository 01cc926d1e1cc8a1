"""What a library offers for queries, as one file that says all that their losses are taken from."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a library offered for a query, as numbers.

    Args:
        part: ``choose``, ``check`` or ``heldout``.
        n_aliases: Of each task in the library.
        situation: As in `reuse_cases.Query`.
        task: Number of the query's task; -1 for opposites, which have no examples.
        is_own: The found adapter was made for the query's own task.
        score: As in `reuse_cases.Case`, like those that follow.
        margin: Likewise.
        is_contradicted: Likewise.
        distance: Likewise.
        fresh: The embedding's row that a new adapter would be made from.
        held: The one of the found adapter.
    """

    part: str
    n_aliases: int
    situation: str
    task: int
    is_own: bool
    score: float
    margin: float
    is_contradicted: bool
    distance: float
    fresh: int
    held: int


@dataclass(frozen=True, slots=True)
class Pack:
    """
    What losses are measured from.

    Args:
        embeddings: ``[N, D]`` float32 of unit L2 norm.
        offers: What was offered.
        wordings: Rows of each task's first alias and of two unseen wordings.
        examples: Of each task: token ids of prompt and answer, and the answer's length.
        facts: Of the run that made it.
    """

    embeddings: NDArray[np.float32]
    offers: tuple[Offer, ...]
    wordings: tuple[tuple[int, int, int], ...]
    examples: tuple[tuple[tuple[list[int], int], ...], ...]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        about = {
            "offers": json.dumps([dataclasses.astuple(offer) for offer in self.offers]),
            "wordings": json.dumps(self.wordings),
            "examples": json.dumps(self.examples),
            "facts": json.dumps(self.facts),
        }
        save_file({"embeddings": self.embeddings}, path, metadata=about)

    @classmethod
    def load(cls, path: Path) -> "Pack":
        """Read what `save` wrote."""
        with safe_open(path, "np") as file:
            about = file.metadata()
            embeddings = file.get_tensor("embeddings")
        return cls(
            embeddings,
            tuple(Offer(*raw) for raw in json.loads(about["offers"])),
            tuple(tuple(rows) for rows in json.loads(about["wordings"])),
            tuple(tuple((ids, n) for ids, n in task) for task in json.loads(about["examples"])),
            json.loads(about["facts"]),
        )


def slim(pack: Pack) -> Pack:
    """Leave out the embeddings that nothing refers to."""
    used = {row for offer in pack.offers for row in (offer.fresh, offer.held)}
    rows = sorted(used | {row for wordings in pack.wordings for row in wordings})
    new = {row: i for i, row in enumerate(rows)}
    return dataclasses.replace(
        pack,
        embeddings=np.ascontiguousarray(pack.embeddings[rows]),
        offers=tuple(
            dataclasses.replace(offer, fresh=new[offer.fresh], held=new[offer.held])
            for offer in pack.offers
        ),
        wordings=tuple((new[a], new[b], new[c]) for a, b, c in pack.wordings),
    )
