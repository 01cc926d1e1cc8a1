"""Trains the judge of topic shifts: what made-up and whole chats show him, and his weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2l_router.inference_head import Encoder, HeadInference
from t2l_router.reading import Reading
from t2l_router.topics import Judge, Matrix, TopicTask, Vector, begin, counted, evidence
from training.chat import Chat, ChatTask, WholeChat

WHOLE = 6  # how often a turn of a written chat counts
CHECKS = 5
MEMBERS = 6  # judges whose mean is the judge: each sees the same rows in another order


def _none(_: int) -> bool:
    return False


def fit_judge(
    rows: Matrix, labels: Sequence[int], *, seed: int, hidden: int = 16, steps: int = 600
) -> Judge:
    """Learn to weigh the evidence: 0 goes on, 1 shifts, 2 is an aside."""
    x, y = torch.from_numpy(rows), torch.tensor(labels)
    mean, deviation = x.mean(0), x.std(0) + 1e-2
    x = (x - mean) / deviation
    members = [_member(x, y, seed * MEMBERS + i, hidden, steps) for i in range(MEMBERS)]
    # Side by side they are one perceptron, whose logits are the mean of theirs.
    weights = (
        torch.cat([first.weight.T for first, _ in members], 1),
        torch.cat([second.weight.T for _, second in members]) / MEMBERS,
    )
    biases = (
        torch.cat([first.bias for first, _ in members]),
        torch.stack([second.bias for _, second in members]).mean(0),
    )
    return Judge(
        mean.numpy(),
        deviation.numpy(),
        tuple(weight.detach().contiguous().numpy() for weight in weights),
        tuple(bias.detach().numpy() for bias in biases),
    )


def _member(x: Tensor, y: Tensor, seed: int, hidden: int, steps: int) -> tuple[nn.Linear, ...]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    first, second, drop = nn.Linear(x.shape[1], hidden), nn.Linear(hidden, 3), nn.Dropout(0.2)
    optimizer = torch.optim.AdamW(
        [*first.parameters(), *second.parameters()], 0.01, weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (1_024,), generator=generator)
        scores = second(drop(nn.functional.gelu(first(drop(x[batch])), approximate="tanh")))
        loss = cross_entropy(scores, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return first, second


def watch(
    chat: Chat, tasks: Sequence[ChatTask], inference: HeadInference, encoder: Encoder
) -> tuple[list[Vector], list[int]]:
    """Give the evidence before each turn of a made-up chat, as if all before were read right."""
    rows, labels = [], []

    def described(task: int) -> Vector:
        row: Vector = encoder.embed([tasks[task].description])[0]
        return row

    topic = None
    if chat.system is not None:
        stated = encoder.embed([chat.system])[0]
        topic = begin(None, tasks[chat.first].description, stated, None, source="system")
    for said in chat.turns:
        turn = inference.turn(Reading(None, (said.text,)))
        if topic is not None:
            rows.append(evidence(topic, turn))
            labels.append(2 if said.task is None else int(said.shifts))
        if said.task is None:
            continue
        if topic is None or said.shifts:
            description = tasks[said.task].description
            topic = begin(topic, description, described(said.task), turn, source="inferred")
        else:
            topic = counted(topic, turn)
    return rows, labels


def watch_whole(chat: WholeChat, inference: HeadInference) -> tuple[list[Vector], list[int]]:
    """Give the evidence before each turn of a written chat, as if all before were read right."""
    rows, labels = [], []
    topic, at = None, None
    seen: dict[int, TopicTask] = {}
    if chat.system is not None:
        found = inference.stated(Reading(chat.system, ()))
        assert found is not None and found.embedding is not None, f"no task in {chat.system!r}"  # noqa: PT018
        topic, at = begin(None, found.text, found.embedding, None, source="system"), 1
    for number, text in chat.turns:
        reading = Reading(chat.system, (text,))
        turn = inference.turn(reading)
        if topic is not None:
            rows.append(evidence(topic, turn))
            labels.append(2 if number == 0 else int(number != at))
        if number == 0:
            continue
        if topic is not None and number == at:
            topic = counted(topic, turn)
        elif (old := seen.get(number)) is not None:
            topic = begin(topic, old.description, old.embedding, turn, source=old.source)
        else:
            found = inference.infer(reading, tenant="", turn=turn)
            assert found is not None and found.embedding is not None, f"no task in {text!r}"  # noqa: PT018
            topic = begin(topic, found.text, found.embedding, turn, source="inferred")
        at = number
        seen[number] = topic.active
    return rows, labels


@dataclass
class Seen:
    """
    What judges learn from.

    Args:
        rows: Evidence, ``[F]`` each.
        labels: As `fit_judge` takes them.
        whole: The number of the written chat that a row is from; None of a made-up one.
    """

    rows: list[Vector] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    whole: list[int | None] = field(default_factory=list)

    def add(self, watched: tuple[list[Vector], list[int]], *, whole: int | None = None) -> None:
        """Add what `watch` or `watch_whole` gave."""
        self.rows += watched[0]
        self.labels += watched[1]
        self.whole += [whole] * len(watched[0])

    def weighted(self, leave_out: Callable[[int], bool] = _none) -> tuple[Matrix, list[int]]:
        """Give rows and labels, those of written chats `WHOLE` times, without some of these."""
        counts = [
            1 if number is None else 0 if leave_out(number) else WHOLE for number in self.whole
        ]
        labels = np.repeat(self.labels, counts)
        return np.repeat(np.stack(self.rows), counts, axis=0), labels.tolist()


def cross_validated(seen: Seen, *, seed: int) -> dict[str, float]:
    """Say how well judges do on the written chats that they were not trained on."""
    said, true = [], []
    for fold in range(CHECKS):

        def held(number: int, fold: int = fold) -> bool:
            return number % CHECKS == fold

        judge = fit_judge(*seen.weighted(held), seed=seed)
        for row, label, number in zip(seen.rows, seen.labels, seen.whole, strict=True):
            if number is not None and held(number):
                said.append(int(np.argmax(judge(row))))
                true.append(label)
    shifts, wanted = said.count(1), true.count(1)
    right = sum(one == two == 1 for one, two in zip(said, true, strict=True))
    return {
        "accuracy": sum(map(int.__eq__, said, true)) / len(said),
        "shift_precision": right / max(shifts, 1),
        "shift_recall": right / max(wanted, 1),
        "turns": float(len(said)),
        "shifts": float(wanted),
    }
