"""Answers with adapters of inferred tasks: rows in a file, scored as evaluation scores."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from t2l_router import checkpoint
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec
from training import evaluate, inferred
from training.base import load_frozen
from training.corpus import load_tasks
from training.sampling import sample
from training.systems import described

SPLIT, LIMIT, DIM = "validation", 3, 24


@pytest.fixture
def net(tiny_base, tmp_path):
    """A hypernetwork whose adapters matter."""
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    spec = LoraSpec.from_model(model, base_model="tiny", base_fingerprint="f", rank=4)
    torch.manual_seed(0)
    hypernet = Hypernet(HypernetConfig(spec, DIM, "w", "w"))
    for parameter in hypernet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint.save_pretrained(hypernet, tmp_path / "net", card="")
    return tmp_path / "net"


def embedded(texts):
    rows = np.stack([np.frombuffer(t.encode().ljust(DIM)[:DIM], np.uint8) for t in texts])
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_given_tasks_score_as_in_evaluation(net, corpus, tiny_base, tmp_path) -> None:
    """Rows of the tasks' own descriptions give what `training.evaluate` gives; others don't."""
    tasks = load_tasks(corpus, [SPLIT])
    counts = [len(sample(task, LIMIT, 0)[0]) for task in tasks]
    texts = described(tasks, "description", 0)
    given = np.repeat(embedded(texts), counts, axis=0)
    facts = {"split": SPLIT, "limit": LIMIT, "seed": 0, "checkpoint": str(net)}
    facts["strategies"] = json.dumps(["given", "other"])
    rows = {"given": given, "other": np.ascontiguousarray(-given)}
    save_file(rows, tmp_path / "rows", metadata={"facts": json.dumps(facts)})
    about = {"texts": json.dumps(texts)}
    save_file({"embeddings": embedded(texts)}, tmp_path / "known", metadata=about)
    shared = ["--corpus", corpus, "--base", tiny_base.path, "--device", "cpu"]
    shared += ["--max-new-tokens", 4]
    evaluated = ["--split", SPLIT, "--limit", LIMIT, "--systems", "base,t2l", "--checkpoint", net]

    inferred.main(
        ["score", *map(str, shared), "--rows", str(tmp_path / "rows"),
         "--json", str(tmp_path / "found")]
    )  # fmt: skip
    evaluate.main(
        [*map(str, [*shared, *evaluated]), "--encoder", str(tmp_path / "known"),
         "--json", str(tmp_path / "expected")]
    )  # fmt: skip

    found = json.loads((tmp_path / "found").read_text())["metrics"]
    expected = json.loads((tmp_path / "expected").read_text())["metrics"]
    assert found["none"] == expected["base"]
    assert found["given"] == expected["t2l"]
    assert found["other"]["n_tasks"] == len(tasks)
