"""
Everything that losses of reused adapters are measured from, in one file for a machine with a GPU.

    python -m training.reuse_pack --corpus DIR --out reuse.safetensors
    python -m training.reuse_score --pack reuse.safetensors --out losses.json
    python -m training.reuse_strict --pack reuse.safetensors --losses losses.json --json FILE

The first needs the encoder and the corpus, the second the hypernetwork and the base model.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t2l_router import checkpoint, models
from t2l_router.chat_format import render
from t2l_router.config import Settings
from t2l_router.encoder import TaskEncoder
from t2l_router.generator import AdapterGenerator
from training import opposites
from training.base import find_model
from training.calibrate import SIZES, Options, divide_cases
from training.corpus import Task, load_tasks
from training.prompts import chat
from training.reuse_cases import Case, divide, entries_of, find_cases, rows_of
from training.reuse_offers import Offer, Pack, slim
from training.sampling import sample
from training.writing import BatchWriter

LEAST_SCORE = 0.6  # cosines from here on, and distances up to there, are measured
MOST_DISTANCE = 0.6
MOST_TOKENS = 256


def tokenised(
    tokenizer: PreTrainedTokenizerBase, task: Task, *, n: int
) -> tuple[tuple[list[int], int], ...]:
    """Give at most *n* test examples that are short enough, as `Pack.examples` holds them."""
    found = []
    for example in sample(task, 4 * n, 0)[0]:
        prompt = render(tokenizer, chat(example.text))
        answer = tokenizer(example.outputs[0], add_special_tokens=False)["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        if len(prompt) + len(answer) <= MOST_TOKENS:
            found.append(([*prompt, *answer], len(answer)))
    return tuple(found[:n])


def offers(cases: Iterable[Case], held: Sequence[int], part: str, n: int) -> list[Offer]:
    """
    Give the cases that some rule worth looking at would reuse.

    Args:
        cases: Of one library.
        held: The row that each entry's adapter was made from.
        part: What the tasks are for.
        n: Aliases of each task.
    """
    return [
        Offer(
            part,
            n,
            case.query.situation,
            -1 if case.query.situation == "opposite" else case.query.task,
            case.query.situation != "opposite" and case.found == case.query.task,
            round(case.score, 4),
            round(case.margin, 4),
            case.is_contradicted,
            round(case.distance, 4),
            case.query.row,
            held[case.found],
        )
        for case in cases
        if case.score >= LEAST_SCORE or case.distance <= MOST_DISTANCE
    ]


class Known:
    """
    An encoder that has embedded its texts beforehand.

    Args:
        rows: Text -> row of *embeddings*.
        embeddings: ``[N, D]`` float32.
    """

    def __init__(self, rows: Mapping[str, int], embeddings: NDArray[np.float32]) -> None:
        self._rows, self._embeddings = rows, embeddings

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give the rows of some of them."""
        return self._embeddings[[self._rows[text] for text in texts]]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Pack what losses of reuse are measured from.")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=10, help="test examples of each task")
    parser.add_argument("--queries", type=int, default=1, help="of each task and style")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    # Embeddings are packed, no texts: what reads tokens has none to read.
    options = Options(args.corpus, checkpoint=checkpoint.SENTENCES, queries=args.queries)
    spec = checkpoint.from_pretrained(options.checkpoint).config
    generator = AdapterGenerator.load(options.checkpoint, base=spec.lora)
    encoder = TaskEncoder.load(models.pull(spec.encoder, cache_dir=Settings().cache_dir))
    tasks = load_tasks(args.corpus, [*options.splits, *options.report_splits])
    described = divide(tasks, queries=options.queries, seed=options.seed)
    pairs = (*opposites.TUNING, *opposites.CHECKING)
    rows = rows_of(described, pairs)
    embeddings = encoder.embed(list(rows))
    found = find_cases(
        described,
        pairs,
        encoder=Known(rows, embeddings),
        write=BatchWriter(generator),
        n_aliases=SIZES,
    )
    parts = {n: divide_cases(cases, described, options.report_splits) for n, cases in found.items()}
    held = [rows[aliases[0]] for aliases in entries_of(described, pairs)]
    tokenizer = AutoTokenizer.from_pretrained(find_model(spec.lora.base_model))
    pack = Pack(
        embeddings,
        tuple(
            offer
            for n, by_part in parts.items()
            for part, cases in by_part.items()
            for offer in offers(cases, held, part, n)
        ),
        tuple((rows[e.aliases[0]], rows[e.queries[0]], rows[e.queries[1]]) for e in described),
        tuple(tokenised(tokenizer, e.task, n=args.examples) for e in described),
        {
            "encoder": spec.encoder,
            "hypernet_id": generator.hypernet_id,
            "checkpoint": options.checkpoint,
            "pad": tokenizer.pad_token_id,
            "asked": {
                f"{n} {part} {situation}": sum(c.query.situation == situation for c in cases)
                for n, by_part in parts.items()
                for part, cases in by_part.items()
                for situation in ("present", "absent", "opposite")
            },
        },
    )
    slim(pack).save(args.out)


if __name__ == "__main__":
    main()
