"""
Replays labelled conversations through inference and reuse, and scores every turn.

    python -m tests.bench.bench_conversations --conversations FILE [--out tests/bench/results]

Reads one conversation a line: ``kind``, ``messages`` and ``labels`` of user turns (``turn``,
``task_key``, ``adapt``, ``shift_from_active``). User turns come in order, answers from the file.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from t2l_router import bootstrap, heads
from t2l_router.config import Settings
from t2l_router.generator import AdapterGenerator
from t2l_router.guard import contradictions
from t2l_router.inference import Inference, hear
from t2l_router.inference_head import HeadInference
from t2l_router.policy import Thresholds, thresholds_for, verified
from t2l_router.reading import read
from t2l_router.topics import Matrix, Topic, Vector
from t2l_router.wire import ChatRequest
from tests.bench.report import publish

if TYPE_CHECKING:
    from t2l_router.lora import LoraWeights

BASE_KEYS = ("small-talk", "meta-question", "ui-helper")


class Encoder(Protocol):
    """Turns texts into embeddings."""

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embed texts as ``[N, D]`` float32 of unit L2 norm."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    One labelled turn and what was done.

    Args:
        conversation: Its id.
        kind: Of the conversation.
        turn: The message's number.
        key: Names the task; small talk and helper prompts have keys of their own.
        adapt: Whether an adapter should serve.
        shift: Whether the task should be another one than at the last task turn.
        adapter: What served; None is the base model.
        shifted: Whether another adapter served than at the last adapted turn.
    """

    conversation: str
    kind: str
    turn: int
    key: str
    adapt: bool
    shift: bool
    adapter: str | None
    shifted: bool


class Shelf:
    """
    A library in memory that reuses as the router does: equal texts, and compared adapters.

    Args:
        encoder: Embeds descriptions.
        generator: Writes adapters.
        thresholds: From where on adapters are compared and reused.
    """

    def __init__(
        self, encoder: Encoder, generator: AdapterGenerator, thresholds: Thresholds
    ) -> None:
        self._encoder, self._generator, self._thresholds = encoder, generator, thresholds
        self._texts: dict[str, str] = {}
        self._described: list[tuple[str, Vector, str]] = []
        self._weights: dict[str, LoraWeights] = {}

    def adapter(self, description: str) -> str:
        """Give the adapter for a description: a held one, or a new one."""
        if (known := self._texts.get(description)) is None:
            known = self._found(description)
            self._texts[description] = known
        return known

    def _found(self, description: str) -> str:
        embedding = self._encoder.embed([description])
        (new,) = self._generator.generate(embedding)
        nearest = max(
            self._described, key=lambda known: float(known[1] @ embedding[0]), default=None
        )
        adapter = str(new.adapter_id)
        if nearest is not None and not contradictions(description, nearest[0]):
            score = float(nearest[1] @ embedding[0])
            if score >= self._thresholds.verify_score:
                distance = new.delta_distance(self._weights[nearest[2]])
                if verified(distance, self._thresholds):
                    adapter = nearest[2]
        self._weights.setdefault(adapter, new)
        self._described.append((description, embedding[0], adapter))
        return adapter


def replay(
    conversations: Iterable[dict[str, Any]], inference: Inference, shelf: Shelf
) -> list[Outcome]:
    """Ask for every labelled turn, in order, as one tenant."""
    outcomes = []
    for conversation in conversations:
        labels = {label["turn"]: label for label in conversation["labels"]}
        topic: Topic | None = None
        last: str | None = None
        for number, _ in enumerate(conversation["messages"]):
            if (label := labels.get(number)) is None:
                continue
            request = ChatRequest.model_validate(
                {"model": "m", "messages": conversation["messages"][: number + 1]}
            )
            heard = hear(inference, read(request), topic, tenant="t")
            topic = heard.topic
            adapter = None if heard.description is None else shelf.adapter(heard.description)
            outcomes.append(
                Outcome(
                    conversation["id"],
                    conversation["kind"],
                    number,
                    label["task_key"],
                    label["adapt"],
                    label["shift_from_active"],
                    adapter,
                    None not in (adapter, last) and adapter != last,
                )
            )
            last = adapter or last
    return outcomes


def score(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Give every published figure."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    quiet = [o for o in outcomes if o.key.startswith(BASE_KEYS)]
    right = sum(o.shift and o.shifted for o in outcomes)
    tasks = [o for o in outcomes if o.adapt and o.adapter is not None]
    same = [(a, b) for a, b in combinations(tasks, 2) if a.key == b.key]
    within = [a.adapter == b.adapter for a, b in same if a.conversation == b.conversation]
    across = [a.adapter == b.adapter for a, b in same if a.conversation != b.conversation]
    usual = {
        key: Counter(o.adapter for o in tasks if o.key == key).most_common(1)[0][1]
        for key in {o.key for o in tasks}
    }
    return {
        "turns": len(outcomes),
        **{f"adapt_{kind}": _share(map(_adapts, kinds[kind])) for kind in sorted(kinds)},
        "base_for_small_talk_and_helpers": _share(o.adapter is None for o in quiet),
        "adapter_for_tasks": _share(o.adapter is not None for o in outcomes if o.adapt),
        "shift_precision": round(right / max(1, sum(o.shifted for o in outcomes)), 3),
        "shift_recall": round(right / max(1, sum(o.shift for o in outcomes)), 3),
        "shifts": sum(o.shift for o in outcomes),
        "same_key_same_adapter_within": _share(within),
        "same_key_same_adapter_across": _share(across),
        "turns_with_their_keys_usual_adapter": round(sum(usual.values()) / max(1, len(tasks)), 3),
        "opposites_sharing_an_adapter": _opposites(kinds["opposites"]),
        "injections_that_changed_the_task": sum(o.shifted for o in kinds["adversarial"]),
    }


def _adapts(outcome: Outcome) -> bool:
    return (outcome.adapter is not None) == outcome.adapt


def _share(right: Iterable[bool]) -> float:
    values = list(right)
    return round(sum(values) / max(1, len(values)), 3)


def _opposites(outcomes: Sequence[Outcome]) -> int:
    """How many pairs of opposite conversations, which stand side by side, share an adapter."""
    adapters: dict[str, set[str | None]] = defaultdict(set)
    keys: dict[str, str] = {}
    for outcome in outcomes:
        adapters[outcome.conversation].add(outcome.adapter)
        keys[outcome.conversation] = outcome.key
    names = list(adapters)
    pairs = [(a, b) for a, b in pairwise(names) if names.index(a) % 2 == 0]
    return sum(bool((adapters[a] & adapters[b]) - {None}) for a, b in pairs if keys[a] != keys[b])


def main(argv: Sequence[str] | None = None) -> None:
    """Replay, score, print and perhaps write the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--conversations", type=Path, required=True)
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--wrong", action="store_true", help="list the turns that went wrong")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    began = time.perf_counter()
    lines = args.conversations.read_text(encoding="utf8").splitlines()
    conversations = [json.loads(line) for line in lines if line]
    writing = bootstrap.load_writing(Settings())
    encoder = writing.encoder
    inference = HeadInference(encoder, heads.load(args.heads, encoder=encoder.fingerprint))
    thresholds = thresholds_for(encoder.fingerprint, writing.generator.hypernet_id)
    shelf = Shelf(encoder, writing.generator, thresholds)
    outcomes = replay(conversations, inference, shelf)
    if args.wrong:
        for o in outcomes:
            if o.shift != o.shifted or not _adapts(o):
                print(o)
    publish(
        "conversations",
        score(outcomes),
        began=began,
        out=args.out,
        strategy="head",
        library="in memory",
        conversations=len(conversations),
    )


if __name__ == "__main__":
    main()
