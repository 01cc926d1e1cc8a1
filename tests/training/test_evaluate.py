"""The two programs, from a corpus folder to a table, on a tiny model."""

import json

import pytest
import torch

from t2l_router import checkpoint
from t2l_router.errors import ConfigError
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec
from training import bench, embeddings, evaluate
from training.base import load_frozen
from training.corpus import load_tasks
from training.oracle_file import Oracles
from training.systems import choose, described


@pytest.fixture(scope="module")
def trained(tiny_base, corpus, tmp_path_factory):
    """An untrained hypernetwork's checkpoint and stored embeddings of all descriptions."""
    folder = tmp_path_factory.mktemp("trained")
    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    spec = LoraSpec.from_model(model, base_model="tiny", base_fingerprint="f", rank=4)
    net = Hypernet(HypernetConfig(spec, 24, "w", "w"))
    checkpoint.save_pretrained(net, folder / "net", card="")
    return folder


def arguments(corpus, trained, tiny_base, /, **changes: object) -> list[str]:
    values = {
        "corpus": corpus,
        "split": "validation",
        "checkpoint": trained / "net",
        "base": tiny_base.path,
        "encoder": trained / "embeddings",
        "limit": 3,
        "max-new-tokens": 4,
        "device": "cpu",
        **changes,
    }
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def stored(corpus, trained, monkeypatch):
    """Embed with word hashes instead of a real encoder."""
    import numpy as np  # noqa: PLC0415

    class Encoder:
        def embed(self, texts):
            rows = np.stack([np.frombuffer(t.encode().ljust(24)[:24], np.uint8) for t in texts])
            rows = rows.astype(np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    real = embeddings.load_encoder
    monkeypatch.setattr(
        embeddings, "load_encoder", lambda name: real(name) if "/" in name else Encoder()
    )
    embeddings.main(
        ["--corpus", str(corpus), "--splits", "train,validation", "--encoder", "x", "--inputs", "3",
         "--out", str(trained / "embeddings")]
    )  # fmt: skip


def test_evaluate_writes_scores_per_task(corpus, trained, tiny_base, tmp_path, capsys) -> None:
    """Every system gets a row in the table and means that follow from its tasks' scores."""
    out = tmp_path / "results.json"
    evaluate.main(
        arguments(
            corpus, trained, tiny_base, json=out,
            systems="base,definition,description,t2l,t2l-shuffled,t2l-terse",
        )
    )  # fmt: skip

    results = json.loads(out.read_text())
    assert list(results) == ["run", "setup", "metrics"]
    assert list(results["metrics"]) == [
        "base", "definition", "description", "t2l", "t2l-shuffled", "t2l-terse",
    ]  # fmt: skip
    for scores in results["metrics"].values():
        assert scores["n_tasks"] == 2
        tasks = scores["per_task"]
        assert set(tasks) == {"echo", "count"}
        assert tasks["echo"]["n"] == 3
        assert tasks["echo"]["score"] == tasks["echo"]["exact_match"]
        mean = sum(task["rouge_l"] for task in tasks.values()) / 2
        assert scores["rouge_l"] == pytest.approx(mean)
    # An untrained hypernetwork is a no-op: its answers are the base model's.
    assert results["metrics"]["t2l"] == results["metrics"]["base"]
    assert "t2l-shuffled" in capsys.readouterr().out


def test_one_task_has_no_other(corpus, trained, tiny_base, tmp_path, capsys) -> None:
    """Systems that take another task's words are left out where there is none, and say so."""
    lines = (corpus / "tasks.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "tasks.jsonl").write_text("".join(line for line in lines if "echo" not in line))
    (tmp_path / "data").symlink_to(corpus / "data")

    evaluate.main(arguments(tmp_path, trained, tiny_base, systems="t2l,t2l-shuffled"))

    told = capsys.readouterr()
    assert "t2l-shuffled is left out: it needs a second task" in told.err
    assert "t2l-shuffled" not in told.out
    with pytest.raises(SystemExit, match="no system is left"):
        evaluate.main(arguments(tmp_path, trained, tiny_base, systems="t2l-shuffled"))


@pytest.fixture(scope="module")
def oracles(trained, tiny_base):
    """Random oracles of two tasks, whose descriptions are embedded as the corpus' are."""
    spec = checkpoint.from_pretrained(trained / "net").config.lora
    torch.manual_seed(1)
    shapes = {m.name: (m.d_in, m.d_out) for m in spec.modules}
    rank, layers = spec.rank, spec.n_layers
    a = {name: torch.randn(2, layers, rank, d_in).bfloat16() for name, (d_in, _) in shapes.items()}
    b = {
        name: torch.randn(2, layers, d_out, rank).bfloat16() for name, (_, d_out) in shapes.items()
    }
    owners = torch.tensor([0, 1])
    Oracles(spec, ["shout", "echo"], a, b, torch.eye(24)[:2], owners).save(trained / "oracles")
    return trained / "oracles"


def test_systems_of_oracles(corpus, trained, tiny_base, oracles, tmp_path) -> None:
    """Own oracles answer the tasks that have one; library systems answer all; shots change it."""
    out = tmp_path / "results.json"
    evaluate.main(
        arguments(
            corpus, trained, tiny_base, json=out, oracles=oracles, descriptions=2,
            systems="base,few-shot,average,arrow,nearest-oracle,oracle,t2l-random,hyperdecoder",
            **{"own-oracles": oracles, "max-new-tokens": 8},
        )
    )  # fmt: skip

    metrics = json.loads(out.read_text())["metrics"]
    assert list(metrics["oracle"]["per_task"]) == ["echo"]
    assert metrics["oracle"]["n_tasks"] == 1
    assert all(metrics[name]["n_tasks"] == 2 for name in metrics if name != "oracle")
    drawn = {
        name
        for name, scores in metrics.items()
        if "rouge_l_by_description" in scores["per_task"]["echo"]
    }
    assert drawn == {"few-shot", "nearest-oracle", "t2l-random"}
    for scores in metrics.values():
        task = scores["per_task"]["echo"]
        if "rouge_l_by_description" in task:
            assert len(task["rouge_l_by_description"]) == 2
            assert task["rouge_l"] == pytest.approx(sum(task["rouge_l_by_description"]) / 2)


def test_inputs_are_answered_in_turns(corpus, trained, tiny_base, oracles, monkeypatch) -> None:
    """More adapters than slots give the same answers as enough slots."""
    texts = {}
    for slots in (128, 2):
        monkeypatch.setattr(bench, "_SLOTS", slots)
        said = []
        monkeypatch.setattr(
            bench, "score_task", lambda task, examples, answers, said=said: (
                said.extend(answers), {"rouge_l": 0, "exact_match": 0, "score": 0, "n": 1})[1]
        )  # fmt: skip
        evaluate.main(
            arguments(
                corpus, trained, tiny_base, systems="hyperdecoder,oracle,base",
                **{"own-oracles": oracles, "max-new-tokens": 8},
            )
        )  # fmt: skip
        texts[slots] = said
    assert len(texts[2]) == 6 + 3 + 6
    assert texts[2] == texts[128]


@pytest.mark.parametrize("cut", [False, True])
def test_first_line_cuts_every_systems_answers(
    corpus, trained, tiny_base, monkeypatch, cut
) -> None:
    """What a pretrained model writes behind its answer counts, unless all answers are cut."""
    monkeypatch.setattr(bench, "answer", lambda *args, **_: ["\n red \nblue\n" for _ in args[-1]])
    said = []
    real = bench.score_task
    monkeypatch.setattr(
        bench, "score_task", lambda task, examples, answers: (
            said.extend(answers), real(task, examples, answers))[1]
    )  # fmt: skip
    words = arguments(corpus, trained, tiny_base, systems="base,few-shot,t2l")

    results = evaluate.evaluate(evaluate.parse([*words, "--first-line"] if cut else words))

    assert said == ["red" if cut else "\n red \nblue\n"] * 3 * 6
    assert results["setup"]["first_line"] is cut


def test_stored_embeddings_hold_what_systems_are_told(corpus, trained) -> None:
    """Definitions and random strings are stored, too: other machines have no encoder."""
    tasks = load_tasks(corpus, ["train", "validation"])
    encoder = embeddings.StoredEmbeddings(trained / "embeddings")

    for kind in ("description", "definition", "terse", "shuffled", "random"):
        assert encoder.embed(described(tasks, kind, 2)).shape == (len(tasks), 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "nope"}, "its splits: train, validation"),
        ({"systems": "t2l,magic"}, "unknown system 'magic'"),
        ({"systems": "multi-task"}, "needs --multi-task"),
        ({"systems": "oracle"}, "oracle needs --own-oracles"),
        ({"systems": "arrow"}, "arrow needs --oracles"),
        ({"oracles": "/nowhere"}, "no file of oracle LoRAs"),
        ({"corpus": "/nowhere"}, "not a corpus folder"),
        ({"checkpoint": "/nowhere"}, "there is no checkpoint directory '/nowhere'"),
    ],
)
def test_evaluate_explains_bad_arguments(corpus, trained, tiny_base, change, message) -> None:
    """One line on standard error and exit code 1, no traceback."""
    with pytest.raises(SystemExit, match=message):
        evaluate.main(arguments(corpus, trained, tiny_base, **change))


def test_shuffled_gives_every_task_anothers_description(corpus) -> None:
    """No task keeps its own description, and all descriptions are used."""
    tasks = load_tasks(corpus, ["train", "validation"])
    own = described(tasks, "description", 0)

    shuffled = described(tasks, "shuffled", 0)

    assert sorted(shuffled) == sorted(own)
    assert all(a != b for a, b in zip(own, shuffled, strict=True))
    assert described(tasks, "shuffled", 0) == shuffled


def test_systems_keep_their_order() -> None:
    """Systems come out in the order they were asked for."""
    assert [system.name for system in choose("t2l,base")] == ["t2l", "base"]


def test_one_hot_encoder_knows_the_trained_tasks(corpus) -> None:
    """Each description gives its task's unit vector; another task's is refused."""
    tasks = load_tasks(corpus, ["train", "validation"])
    encoder = embeddings.OneHotEncoder(["shout", "echo"], tasks)

    rows = encoder.embed(["echo pls", "You are asked to shout."])

    assert rows.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ConfigError, match="trained tasks only"):
        encoder.embed(["count pls"])


def test_one_hot_checkpoints_need_their_oracles(corpus, trained, tiny_base, tmp_path) -> None:
    """The order of tasks isn't in the checkpoint: the oracles' file says it."""
    spec = checkpoint.from_pretrained(trained / "net").config.lora
    net = Hypernet(HypernetConfig(spec, 2, "one-hot", "one-hot-2"))
    checkpoint.save_pretrained(net, tmp_path / "net", card="")

    with pytest.raises(SystemExit, match="needs --own-oracles"):
        evaluate.main(arguments(corpus, trained, tiny_base, checkpoint=tmp_path / "net"))
