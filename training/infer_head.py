"""
Trains the heads that inference reads turns with; everything runs on a CPU.

    python -m training.infer_head --corpus FOLDER --cache embeddings.safetensors --out FOLDER

What a made-up chat shows the judge comes from heads that never saw the chat's words (folds);
otherwise he would trust them more than they deserve on new tasks.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from t2l_router import models
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder
from t2l_router.heads import FILE, Heads, Layers, joined
from t2l_router.inference_head import Encoder, HeadInference
from t2l_router.topics import Judge, Matrix, Vector
from t2l_router.turns import ACTS, request_part
from training.chat import Asides, ChatTask, from_corpus, load_whole, load_written, made_up
from training.corpus import load_tasks
from training.infer_judge import Seen, cross_validated, fit_judge, watch, watch_whole

SPLITS = ("train", "train_aux")
LICENCES = ("permissive", "share_alike", "unknown")
FOLDS = 3
FAR = 0.4  # cosine of two descriptions that are surely of different tasks


class CachedEncoder:
    """
    An encoder that keeps what it embedded.

    Args:
        encoder: Asked for new texts.
        path: Where embeddings are kept, half precision; may not exist yet.
    """

    def __init__(self, encoder: Encoder, path: Path | None = None) -> None:
        self._encoder = encoder
        self._path = path
        self._rows: dict[str, Vector] = {}
        if path is not None and path.is_file():
            with safe_open(path, "np") as file:
                rows = file.get_tensor("embeddings").astype(np.float32)
                self._rows = dict(zip(json.loads(file.metadata()["texts"]), rows, strict=True))

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embed texts, those seen before from memory."""
        new = sorted({text for text in texts if text not in self._rows})
        if new:
            self._rows.update(zip(new, self._encoder.embed(new), strict=True))
        return np.stack([self._rows[text] for text in texts])

    def save(self) -> None:
        """Write what is known."""
        if self._path is not None:
            rows = np.stack(list(self._rows.values())).astype(np.float16)
            about = {"texts": json.dumps(list(self._rows))}
            save_file({"embeddings": rows}, self._path, metadata=about)


class Texts:
    """
    The training material with its embeddings.

    Args:
        written: Tasks written for this purpose.
        corpus: Tasks of a corpus.
        asides: What is no task.
        encoder: Embeds all of it, now.
    """

    def __init__(
        self,
        written: Sequence[ChatTask],
        corpus: Sequence[ChatTask],
        asides: Asides,
        encoder: CachedEncoder,
    ) -> None:
        self.written, self.corpus, self.asides, self.encoder = written, corpus, asides, encoder
        everything = [
            text
            for task in (*written, *corpus)
            for text in (task.description, *task.turns(), *task.systems)
        ]
        everything += [*asides.asides, *asides.helpers, *asides.personas, *asides.system_tasks]
        everything += [request_part(text) for text in everything]
        encoder.embed(everything)
        encoder.save()


def fit_acts(written: Sequence[ChatTask], asides: Asides, encoder: Encoder) -> Layers:
    """Learn what a turn is; a corpus' inputs would not do, as many hold instructions."""
    kinds: list[tuple[str, Sequence[str]]] = [("aside", asides.asides), ("helper", asides.helpers)]
    for task in written:
        kinds += [("ask", task.asks), ("ask", task.requests), ("input", task.inputs)]
        kinds += [("follow-up", task.follow_ups), ("return", task.returns)]
    rows = [(text, ACTS.index(kind)) for kind, texts in kinds for text in texts]
    texts = [request_part(text) for text, _ in rows]
    labels = [label for _, label in rows]
    return _logistic(joined(encoder.embed(texts), texts), labels, len(ACTS), balance=1.0)


def fit_which(written: Sequence[ChatTask], corpus: Sequence[ChatTask], encoder: Encoder) -> Layers:
    """Learn which of the written tasks a turn or a system prompt is at, or that it is at none."""
    rows = [(request_part(t), i) for i, task in enumerate(written) for t in task.turns()]
    rows += [(task.description, i) for i, task in enumerate(written)]
    rows += [(system, i) for i, task in enumerate(written) for system in task.systems]
    # A corpus' tasks that are far from all of the written ones are none of them.
    known = encoder.embed([task.description for task in written])
    for task in corpus:
        if float((encoder.embed([task.description]) @ known.T).max()) < FAR:
            rows += [(text, len(written)) for text in (task.description, *task.requests[:2])]
    texts = [text for text, _ in rows]
    labels = [label for _, label in rows]
    return _logistic(joined(encoder.embed(texts), texts), labels, len(written) + 1, decay=0.003)


def fit_states(
    written: Sequence[ChatTask], corpus: Sequence[ChatTask], asides: Asides, encoder: Encoder
) -> Layers:
    """Learn which sentences of a system prompt state a task."""
    stating = [*asides.system_tasks, *(s for task in written for s in task.systems)]
    stating += [task.requests[0] for task in corpus[::4]]
    texts = [*stating, *asides.personas]
    labels = [1] * len(stating) + [0] * len(asides.personas)
    both = _logistic(joined(encoder.embed(texts), texts), labels, 2)
    # Of two classes the difference is enough.
    weight, bias = both.weights[0], both.biases[0]
    return Layers((weight[:, 1:] - weight[:, :1],), (bias[1:] - bias[:1],))


def _logistic(
    rows: Matrix,
    labels: Sequence[int],
    classes: int,
    *,
    decay: float = 0.01,
    balance: float = 0.5,
) -> Layers:
    """Fit a linear map; at a *balance* of 1 rare classes weigh as much as frequent ones."""
    x, y = torch.from_numpy(rows), torch.tensor(labels)
    mean = x.mean(0)
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    counts = torch.bincount(y, minlength=classes).float()
    weights = (counts.sum() / counts.clamp(min=1) / classes) ** balance
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = cross_entropy((x - mean) @ weight + bias, y, weight=weights)
        total = total + decay * weight.pow(2).sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        moved = bias - mean @ weight
    return Layers((weight.detach().numpy(),), (moved.numpy(),))


def fit_to_task(
    written: Sequence[ChatTask],
    corpus: Sequence[ChatTask],
    encoder: Encoder,
    *,
    seed: int,
    steps: int = 300,
    hidden: int = 512,
    temperature: float = 0.05,
) -> Layers:
    """Learn to move a turn to its task's description: InfoNCE, other tasks' descriptions wrong."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    dim = encoder.embed([written[0].description]).shape[1]
    pools = []
    for task in (*written, *corpus):
        said = [*task.asks, *task.inputs, *task.returns] if task.returns else [*task.inputs]
        sides = (said, [request_part(t) for t in said] if task.returns else said)
        turns = torch.from_numpy(encoder.embed([*sides[0], *sides[1]]))
        described = [task.description, *task.requests, *(() if task.returns else task.asks)]
        goals = torch.from_numpy(encoder.embed(described))
        centre = goals[:1] if task.returns else normalize(goals.mean(0, keepdim=True), dim=1)
        pools.append((turns, torch.cat([goals, centre.expand(len(goals), -1)])))
    first, second, drop = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(0.4)
    nn.init.zeros_(second.weight)
    nn.init.zeros_(second.bias)
    optimizer = torch.optim.AdamW([*first.parameters(), *second.parameters()], 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    n_written = min(40, len(written))
    for _ in range(steps):
        some = torch.randperm(len(written), generator=generator)[:n_written]
        others = torch.randperm(len(corpus), generator=generator)[:192] + len(written)
        chosen = [pools[i] for i in torch.cat([some, others]).tolist()]
        turns = torch.stack([_any(pool[0], generator) for pool in chosen])
        goals = torch.stack([_any(pool[1], generator) for pool in chosen])
        hidden_rows = nn.functional.gelu(first(drop(turns)), approximate="tanh")
        scores = normalize(turns + second(drop(hidden_rows)), dim=1) @ goals.T / temperature
        right = torch.arange(len(chosen))
        loss = (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weights = tuple(layer.weight.detach().T.contiguous().numpy() for layer in (first, second))
    return Layers(weights, tuple(layer.bias.detach().numpy() for layer in (first, second)))


def _any(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[int(torch.randint(len(rows), (1,), generator=generator))]


def train(
    texts: Texts, fingerprint: str, *, seed: int, chats: int
) -> tuple[Heads, dict[str, float]]:
    """Train all heads; the judge on chats whose words the other heads of its fold never saw."""
    written, corpus, encoder = texts.written, texts.corpus, texts.encoder
    whole = load_whole()
    encoder.embed([text for chat in whole for _, text in chat.turns])  # in batches, once
    seen = Seen()
    for fold in range(FOLDS):

        def inside(number: int, fold: int = fold) -> bool:
            return number % FOLDS != fold

        def outside(number: int, fold: int = fold) -> bool:
            return number % FOLDS == fold

        known, known_asides = load_written(seed, inside)
        unknown, unknown_asides = load_written(seed, outside)
        known_corpus = [task for i, task in enumerate(corpus) if inside(i)]
        unknown_corpus = [task for i, task in enumerate(corpus) if outside(i)]
        heads = _heads(known, known_corpus, known_asides, texts, fingerprint, seed=seed)
        inference = HeadInference(encoder, heads)
        encoder.embed([text for task in unknown for text in task.turns()])
        encoder.save()
        for pool, share in ((unknown, 0.85), (unknown_corpus, 0.15)):
            n = int(chats * share / FOLDS)
            for chat in made_up(pool, unknown_asides.asides, n=n, seed=seed * 100 + fold):
                seen.add(watch(chat, pool, inference, encoder))
        # No heads saw the chats that were written as a whole.
        for number, written_chat in enumerate(whole):
            seen.add(watch_whole(written_chat, inference), whole=number)
        print(f"fold {fold + 1} of {FOLDS}: {len(seen.labels):,} turns", flush=True)
    figures = cross_validated(seen, seed=seed)
    heads = _heads(written, corpus, texts.asides, texts, fingerprint, seed=seed)
    return replace(heads, judge=fit_judge(*seen.weighted(), seed=seed)), figures


def _heads(
    written: Sequence[ChatTask],
    corpus: Sequence[ChatTask],
    asides: Asides,
    texts: Texts,
    fingerprint: str,
    *,
    seed: int,
) -> Heads:
    encoder = texts.encoder
    to_task = fit_to_task(written, corpus, encoder, seed=seed)
    # All written tasks are known ones; which of them the heads were trained on is another matter.
    known = tuple(task.description for task in texts.written)
    embeddings = encoder.embed(known)
    nothing = np.zeros(0, np.float32)
    heads = Heads(
        fit_acts(written, asides, encoder),
        fit_states(written, corpus, asides, encoder),
        to_task,
        fit_which(written, corpus, encoder),
        Judge(nothing, nothing, (), ()),
        known,
        embeddings,
        np.zeros(len(known), np.float32),
        fingerprint,
        frozenset(i for i, task in enumerate(texts.written) if task.wide),
    )
    turns = encoder.embed([text for task in written for text in (*task.asks, *task.inputs)])
    scores = np.sort(heads.in_task_space(turns) @ embeddings.T, axis=0)
    # Half the mean of its best scores: some descriptions are near to everything.
    bias = np.asarray(scores[-40:].mean(axis=0) / 2, np.float32)
    return replace(heads, task_bias=bias)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the heads of inference and write them with a card."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--chats", type=int, default=4_000)
    parser.add_argument("--inputs", type=int, default=8, help="inputs of each corpus task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    began = time.perf_counter()
    encoder = TaskEncoder.load(models.pull(args.encoder, cache_dir=Settings().cache_dir))
    tasks = [t for t in load_tasks(args.corpus, SPLITS) if t.licence_class in LICENCES]
    written, asides = load_written(args.seed)
    corpus = from_corpus(tasks, inputs=args.inputs, seed=args.seed)
    texts = Texts(written, corpus, asides, CachedEncoder(encoder, args.cache))
    print(f"embedded after {time.perf_counter() - began:.0f} s", flush=True)
    heads, figures = train(texts, encoder.fingerprint, seed=args.seed, chats=args.chats)
    args.out.mkdir(parents=True, exist_ok=True)
    heads.save(args.out / FILE)
    print(json.dumps(figures | {"minutes": round((time.perf_counter() - began) / 60, 1)}))


if __name__ == "__main__":
    main()
