"""
Replays labelled conversations through the router and scores every turn.

    python -m tests.bench.bench_conversations --conversations FILE [--out tests/bench/results]

Reads one conversation a line: ``kind``, ``messages`` and ``labels`` of user turns (``turn``,
``task_key``, ``adapt``, ``shift_from_active``). User turns come in order, answers from the file,
to a router with a library in SQLite, the real encoder and hypernetwork, and an engine that echoes.

The thresholds of inference were chosen with conversations in view. What that is worth on others
the ``held_out`` figures say: thresholds are chosen anew on four fifths of the conversations and
scored on the rest, in turn; there, equal descriptions are one adapter.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

from t2l_router import bootstrap, common_tasks, heads, topics
from t2l_router.config import Settings, load
from t2l_router.inference import Inference, hear
from t2l_router.inference_head import Encoder, HeadInference
from t2l_router.reading import Reading, read
from t2l_router.router import Caller, Router
from t2l_router.topics import Topic, Turn
from t2l_router.wire import ChatRequest
from tests.bench.report import publish
from tests.e2e.program import HYPERNET
from training.infer_head import CachedEncoder

FOLDS = 5
MODEL = Settings().base_model
GRID: dict[tuple[Any, str], Sequence[float]] = {
    (topics, "SHIFT"): (0.45, 0.55, 0.65),
    (topics, "NOVEL"): (0.0, 0.3),
    (topics, "ASKS"): (0.1, 0.25),
    (topics, "ASIDE"): (0.25, 0.3, 0.36),
    (common_tasks, "SURE"): (0.36, 0.42),
}
BASE_KEYS = ("small-talk", "meta-question", "ui-helper")


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


def heard(conversations: Iterable[dict[str, Any]], inference: Inference) -> list[Outcome]:
    """Infer the task of every labelled turn; equal descriptions are one adapter."""
    outcomes = []
    for conversation in conversations:
        topic: Topic | None = None
        last: str | None = None
        for label, request in asked(conversation):
            found = hear(inference, read(request), topic, tenant="t")
            topic = found.topic
            outcomes.append(_outcome(conversation, label, found.description, last))
            last = found.description or last
    return outcomes


class Remembering(HeadInference):
    """Reads each turn once, whatever the thresholds are that are tried."""

    def __init__(self, encoder: Encoder, trained: heads.Heads) -> None:
        super().__init__(encoder, trained)
        self._turns: dict[tuple[Reading, float], Turn] = {}

    def turn(self, reading: Reading) -> Turn:
        """Read the last user turn."""
        key = (reading, common_tasks.SURE)
        if key not in self._turns:
            self._turns[key] = super().turn(reading)
        return self._turns[key]


async def replay(conversations: Iterable[dict[str, Any]], router: Router) -> list[Outcome]:
    """Ask the router for every labelled turn, in order, as one tenant."""
    outcomes = []
    for conversation in conversations:
        last: str | None = None
        for label, request in asked(conversation, t2l_session=conversation["id"]):
            answer = await router.chat(request, Caller())
            async for _ in answer.deltas:
                pass
            adapter = answer.decision.adapter and answer.decision.adapter.adapter_id
            outcomes.append(_outcome(conversation, label, adapter, last))
            last = adapter or last
    return outcomes


def asked(
    conversation: dict[str, Any], **fields: str
) -> Iterator[tuple[dict[str, Any], ChatRequest]]:
    """Each label and the request that it is about."""
    labels = {label["turn"]: label for label in conversation["labels"]}
    for number in sorted(labels):
        messages = conversation["messages"][: number + 1]
        body = {"model": MODEL, "messages": messages, **fields}
        yield labels[number], ChatRequest.model_validate(body)


def _outcome(
    conversation: dict[str, Any], label: dict[str, Any], adapter: str | None, last: str | None
) -> Outcome:
    return Outcome(
        conversation["id"],
        conversation["kind"],
        label["turn"],
        label["task_key"],
        label["adapt"],
        label["shift_from_active"],
        adapter,
        None not in (adapter, last) and adapter != last,
    )


def cross_validated(conversations: Sequence[dict[str, Any]], inference: Inference) -> list[Outcome]:
    """Every turn as read with thresholds that were chosen on other conversations."""
    tried = []
    for values in product(*GRID.values()):
        with thresholds(values):
            tried.append((values, heard(conversations, inference)))
    folds = {c["id"]: i % FOLDS for i, c in enumerate(conversations)}
    outcomes = []
    for fold in range(FOLDS):
        best = max(tried, key=lambda t: _worth([o for o in t[1] if folds[o.conversation] != fold]))
        print(f"fold {fold + 1}: {best[0]}")
        outcomes += [o for o in best[1] if folds[o.conversation] == fold]
    order = {c["id"]: i for i, c in enumerate(conversations)}
    return sorted(outcomes, key=lambda o: (order[o.conversation], o.turn))


@contextmanager
def thresholds(values: Sequence[float]) -> Iterator[None]:
    """Use other thresholds for a while."""
    before = [getattr(module, name) for module, name in GRID]
    for (module, name), value in zip(GRID, values, strict=True):
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in zip(GRID, before, strict=True):
            setattr(module, name, value)


def _worth(outcomes: Sequence[Outcome]) -> float:
    figures = score(outcomes)
    return (
        figures["shift_precision"]
        + figures["shift_recall"]
        + figures["same_key_same_adapter_across"] / 2
        + figures["base_for_small_talk_and_helpers"]
        + figures["adapter_for_tasks"]
        - figures["opposites_sharing_an_adapter"]
    )


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


async def routed(conversations: Sequence[dict[str, Any]], settings: Settings) -> list[Outcome]:
    """Build a router, replay, close it."""
    router = bootstrap.build_explainer(settings)
    try:
        return await replay(conversations, router)
    finally:
        await router.close()


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
    encoder = bootstrap.load_writing(Settings(hypernet=HYPERNET)).encoder
    trained = heads.load(args.heads, encoder=encoder.fingerprint)
    held_out = cross_validated(conversations, Remembering(CachedEncoder(encoder), trained))
    with tempfile.TemporaryDirectory() as directory:
        fields = {"data_dir": directory, "hypernet": HYPERNET, "inference_heads": args.heads}
        outcomes = asyncio.run(routed(conversations, load(fields)))
    if args.wrong:
        for o in outcomes:
            if o.shift != o.shifted or not _adapts(o):
                print(o)
    figures = score(outcomes) | {f"held_out_{k}": v for k, v in score(held_out).items()}
    publish(
        "conversations",
        figures,
        began=began,
        out=args.out,
        strategy="head",
        library="SQLite",
        conversations=len(conversations),
    )


if __name__ == "__main__":
    main()
