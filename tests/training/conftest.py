import gzip
import json

import pytest
from transformers import AutoTokenizer

from tests.training.packs import WordEncoder
from training.corpus import load_tasks
from training.data import Pack
from training.prepare import SHIPPABLE, build
from training.tokenise import Choice

TASKS = {
    "shout": ("train", lambda text: text.upper()),
    "first": ("train", lambda text: text.split()[0]),
    "last": ("train", lambda text: text.split()[-1]),
    "echo": ("validation", lambda text: text),
    "count": ("validation", lambda text: str(len(text.split()))),
    "secret": ("train", lambda text: "no"),
}
WORDS = ["red", "cat", "blue", "dog", "sun", "moon", "tea", "oak"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Six small tasks in the form of the real corpus; one may not be trained on."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "data").mkdir()
    lines = []
    for name, (split, rule) in TASKS.items():
        lines.append(
            {
                "task": name,
                "split": split,
                "family": "toys",
                "licence_class": "noncommercial" if name == "secret" else "permissive",
                "definition": f"Apply the rule called {name} to the words.",
                "descriptions": [f"You are asked to {name}.", f"The goal is to {name}."],
                "eval_descriptions": [],
                "terse_descriptions": [f"{name} pls"],
                "file": f"data/{name}.jsonl.gz",
            }
        )
        with gzip.open(folder / "data" / f"{name}.jsonl.gz", "wt") as file:
            for i in range(24):
                text = " ".join(WORDS[(i * k + k) % 8] for k in range(1, 2 + i % 4))
                part = "test" if i % 4 == 0 else "train"
                row = {"input": text, "output": rule(text), "split": part}
                file.write(json.dumps(row) + "\n")
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base.path)


@pytest.fixture(scope="session")
def pack(corpus, tokenizer) -> Pack:
    """The training tasks that may be trained on, with word-hash embeddings."""
    tasks = [t for t in load_tasks(corpus, ["train"]) if t.licence_class in SHIPPABLE]
    facts = {"base_model": "tiny", "base_fingerprint": "f", "encoder": "w"}
    return build(
        tasks,
        tokenizer,
        WordEncoder(),
        facts={**facts, "encoder_fingerprint": "w"},
        choice=Choice(instructed=6),
    )
