"""
Build a training pack from a corpus folder.

    python -m training.prepare --corpus DIR --out runs/pack.safetensors
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t2l_router import models
from t2l_router.chat_format import render
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder, normalise
from t2l_router.errors import ConfigError
from training.corpus import Example, Task, load_tasks
from training.data import INSTRUCTED, PLAIN, Pack
from training.prompts import Message, chat

SHIPPABLE = frozenset({"permissive", "share_alike", "unknown", "own"})


@dataclass
class _Tokenised:
    """Examples of the tasks seen so far, as token ids."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    ids: list[list[int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def add(self, messages: list[Message], answer: str, *, task: int, kind: int) -> bool:
        """Tokenise one example; False if it is too long."""
        prompt = render(self.tokenizer, messages)
        eos = self.tokenizer.eos_token_id
        target = self.tokenizer(answer, add_special_tokens=False)["input_ids"] + [eos]
        if len(prompt) + len(target) > self.max_tokens:
            return False
        self.ids.append(prompt + target)
        self.answers.append(len(target))
        self.tasks.append(task)
        self.kinds.append(kind)
        return True


def build(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    encoder: TaskEncoder,
    *,
    facts: dict[str, str],
    examples: int = 500,
    instructed: int = 150,
    descriptions: int = 64,
    max_tokens: int = 384,
    by_inputs: bool = False,
    seed: int = 0,
) -> Pack:
    """
    Tokenise examples and embed descriptions.

    Args:
        tasks: Only their ``train`` examples are read.
        tokenizer: The base model's.
        encoder: The task encoder.
        facts: Kept in the pack: names and fingerprints.
        examples: At most so many examples a task without instruction.
        instructed: At most so many with a description or the definition in the prompt.
        descriptions: At most so many a task, beside all terse ones.
        max_tokens: Longer examples are left out.
        by_inputs: Let inputs of training examples stand for the descriptions: what a hypernetwork
            that reads the input itself (Hyperdecoders) is trained on.
        seed: Decides which.

    Returns:
        The pack; tasks of which no example fits are left out of it.
    """
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrets
    done = _Tokenised(tokenizer, max_tokens)
    names: list[str] = []
    texts: list[str] = []
    text_tasks: list[int] = []
    terse: list[int] = []
    for task in track(tasks, "Tokenising"):
        index = len(names)
        if not _add_task(
            done, task, index=index, rng=rng, examples=examples, instructed=instructed
        ):
            continue
        names.append(task.name)
        known, short = task.training_descriptions, task.terse_descriptions
        if by_inputs:
            known, short = tuple(example.text for example in task.examples("train")), ()
        rich = rng.sample(known, min(descriptions, len(known)))
        for group, kind in ((rich, 0), (short, 1)):
            texts += group
            text_tasks += [index] * len(group)
            terse += [kind] * len(group)
    if not names:
        raise ConfigError(f"no example fits into {max_tokens} tokens")
    lengths = [len(ids) for ids in done.ids]
    return Pack(
        tokens=np.concatenate([np.asarray(ids, np.int32) for ids in done.ids]),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        answers=np.asarray(done.answers, np.int32),
        tasks=np.asarray(done.tasks, np.int32),
        kinds=np.asarray(done.kinds, np.int8),
        embeddings=_embed(encoder, texts),
        embedding_tasks=np.asarray(text_tasks, np.int32),
        terse=np.asarray(terse, np.int8),
        facts={**facts, "tasks": names, "descriptions": [normalise(text) for text in texts]},
    )


def _add_task(
    done: _Tokenised, task: Task, *, index: int, rng: random.Random, examples: int, instructed: int
) -> bool:
    pool = list(task.examples("train"))
    rng.shuffle(pool)
    kept = sum(
        done.add(chat(example.text), example.outputs[0], task=index, kind=PLAIN)
        for example in pool[:examples]
    )
    for example in pool[-instructed:]:
        messages = _instruct(example, task, rng)
        done.add(messages, example.outputs[0], task=index, kind=INSTRUCTED)
    return kept > 0


def _instruct(example: Example, task: Task, rng: random.Random) -> list[Message]:
    """Say the task in the prompt: by a description, the definition, or a system prompt."""
    any_description = task.training_descriptions + task.terse_descriptions
    chance = rng.random()
    if chance < 0.4:  # noqa: PLR2004 - the mixture is the recipe
        return chat(example.text, instruction=rng.choice(any_description))
    if chance < 0.7:  # noqa: PLR2004
        return chat(example.text, instruction=task.definition)
    system = rng.choice((*any_description, task.definition))
    return chat(example.text, instruction=system, where="system")


def _embed(encoder: TaskEncoder, texts: list[str]) -> NDArray[np.float32]:
    step = 256
    parts = [
        encoder.embed(texts[at : at + step])
        for at in track(range(0, len(texts), step), "Embedding descriptions")
    ]
    return np.concatenate(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--splits", default="train,train_aux")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--instructed", type=int, default=150)
    parser.add_argument("--descriptions", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=384)
    parser.add_argument(
        "--by-inputs", action="store_true", help="inputs of examples stand for descriptions"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--any-licence", action="store_true", help="for weights that never leave this machine"
    )
    args = parser.parse_args(argv)
    tasks = load_tasks(args.corpus, args.splits.split(","))
    kept = [task for task in tasks if args.any_licence or task.licence_class in SHIPPABLE]
    cache = Settings().cache_dir
    base = models.pull(args.base, cache_dir=cache)
    encoder_model = models.pull(args.encoder, cache_dir=cache)
    encoder = TaskEncoder.load(encoder_model)
    pack = build(
        kept,
        AutoTokenizer.from_pretrained(base.path, local_files_only=True),
        encoder,
        facts={
            "base_model": base.name,
            "base_fingerprint": base.fingerprint,
            "encoder": encoder_model.name,
            "encoder_fingerprint": encoder.fingerprint,
        },
        examples=args.examples,
        instructed=args.instructed,
        descriptions=args.descriptions,
        max_tokens=args.max_tokens,
        by_inputs=args.by_inputs,
        seed=args.seed,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pack.save(args.out)
    print(
        f"{args.out}: {len(pack.facts['tasks'])} tasks, {len(pack.answers):,} examples, "
        f"{len(pack.tokens):,} tokens, {len(pack.embeddings):,} descriptions; "
        f"{len(tasks) - len(kept)} tasks left out for their licence"
    )


if __name__ == "__main__":
    main()
