"""The verbs of ``t2l adapters``, ``index`` and ``db`` that need models or whole libraries."""

import json
from types import SimpleNamespace

import click.testing
import numpy as np
import pytest
import torch

from adapters_store import AdapterStore, StoreConfig
from t2l_router import bootstrap, storage
from t2l_router.cli import adapters, db, index
from t2l_router.cli.adapters import make
from t2l_router.cli.main import Program
from t2l_router.lora import LoraSpec, LoraWeights, ModuleShape
from tests.adapter_files import BASE

PROJECTIONS = tuple(
    ModuleShape(f"{m}_proj", f"model.layers.{{layer}}.self_attn.{m}_proj", 8, 6) for m in "qv"
)
SPEC = LoraSpec("tiny", BASE, 2, PROJECTIONS, rank=2)


def embed(texts):
    """Unit vectors of the words and a little of their order, so that alike texts are near."""
    rows = []
    for text in texts:
        words = text.lower().split()
        row = sum(np.random.default_rng(list(word.encode())).normal(size=32) for word in words)
        row += 0.01 * np.random.default_rng(list(text.lower().encode())).normal(size=32)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def read(embeddings, texts, sets):
    """The embeddings, moved by the examples."""
    moved = [np.full(32, len(repr(pairs)) if pairs else 0) for pairs in sets]
    return embeddings + np.array(moved, np.float32)


def generate(embeddings):
    """One adapter per embedding, the same for the same one."""
    adapters = []
    for row in embeddings:
        rng = np.random.default_rng(np.frombuffer(row.tobytes(), np.uint32))

        def stack(*shape, rng=rng):
            return torch.tensor(rng.normal(size=shape), dtype=torch.bfloat16)

        adapters.append(
            LoraWeights(
                SPEC,
                {shape.name: stack(2, 2, 8) for shape in PROJECTIONS},
                {shape.name: stack(2, 6, 2) for shape in PROJECTIONS},
            )
        )
    return adapters


@pytest.fixture(autouse=True)
def _models(monkeypatch, tmp_path):
    """Models that need no weights, and a data directory of our own."""
    writing = bootstrap.Writing(
        base=SimpleNamespace(name="tiny", fingerprint=BASE),
        encoder=SimpleNamespace(embed=embed, fingerprint="words", dim=32),
        generator=SimpleNamespace(generate=generate, spec=SPEC, hypernet_id="hyper"),
    )
    reader = SimpleNamespace(read=read, n_fitting=len)
    monkeypatch.setattr(make.bootstrap, "load_writing", lambda settings, **_: writing)
    monkeypatch.setattr(make.bootstrap, "load_reader", lambda settings, _, **__: reader)
    other = SimpleNamespace(embed=lambda texts: embed(texts)[:, ::-1], fingerprint="backwards")
    monkeypatch.setattr(index, "load_encoder", lambda settings, **_: other)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2L_DATA_DIR", str(tmp_path / "data"))


def t2l(*args, code=0):
    """Run ``t2l ARGS`` and return its JSON (or the result of a failure)."""
    program = Program("t2l", context_settings={"help_option_names": ["-h", "--help"]})
    nouns = {"adapters": adapters.command, "index": index.command, "db": db.command}
    program.get_command = lambda _, name: nouns.get(name)
    args = [*args, "--format", "json"]
    result = click.testing.CliRunner().invoke(program, args, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result


@pytest.fixture(name="store")
def _store(tmp_path):
    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "data" / "library")) as store:
        yield store


def test_create(store):
    """Creating an adapter keeps it with its text, name and tags; again changes nothing."""
    made = t2l("adapters", "create", "Write a haiku", "--alias", "poet", "--tag", "verse")

    assert made == t2l("adapters", "create", "Write a haiku")
    record = store.get("poet", tenant="local")
    assert (record.description, record.tags) == ("Write a haiku", ("verse",))
    assert record.lineage.hypernet_id == "hyper"
    assert record.base_model == "tiny"


def test_stored_id_is_the_weights_id(store):
    """The library's id of an adapter is the one that its tensors have in memory."""
    made = t2l("adapters", "create", "Write a haiku")

    (weights,) = generate(embed(["Write a haiku"]))
    assert made["id"] == weights.adapter_id
    loaded = LoraWeights.load_peft(store.directory(made["id"], tenant="local"), SPEC)
    assert loaded.adapter_id == made["id"]


def test_search(store):
    """The nearest description comes first, with its score."""
    near = t2l("adapters", "create", "Write a haiku about rain")
    t2l("adapters", "create", "Solve the equation step by step")

    first, second = t2l("adapters", "search", "write a haiku about snow")

    assert first["id"] == near["id"]
    assert 0.5 < first["score"] < 1
    assert second["score"] < first["score"]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_export_and_import(tmp_path, name):
    """An exported adapter comes back into another library: same id, same texts."""
    made = t2l("adapters", "create", "Write a haiku")
    t2l("adapters", "export", made["id"], "-o", name)

    other = ["--data-dir", str(tmp_path / "other")]
    taken = t2l("adapters", "import", name, "--alias", "poet", *other)

    assert (taken["id"], taken["description"]) == (made["id"], "Write a haiku")
    assert (taken["origin"], taken["source"], taken["hypernet_id"]) == ("imported", name, "hyper")
    assert t2l("adapters", "show", "poet", *other)["id"] == made["id"]


def test_push_and_pull(tmp_path):
    """What is pushed below a URL can be pulled from there."""
    made = t2l("adapters", "create", "Write a haiku")
    url = f"file://{tmp_path}/pushed"
    t2l("adapters", "push", made["id"], url)

    taken = t2l("adapters", "pull", url, "--data-dir", str(tmp_path / "other"))

    assert (taken["id"], taken["source"]) == (made["id"], url)
    result = t2l("adapters", "pull", "hf://owner/repository", code=5)
    assert "pin the revision" in result.stderr


def test_import_of_another_base(tmp_path):
    """An export for another base model is refused with code 5."""
    made = t2l("adapters", "create", "Write a haiku")
    t2l("adapters", "export", made["id"], "-o", "out")
    manifest = tmp_path / "out" / "t2l.json"
    manifest.write_text(manifest.read_text().replace(BASE, "x" * 64))

    assert "fingerprint" in t2l("adapters", "import", "out", code=5).stderr


def test_dedupe():
    """Duplicates are shown first, and merged only when told to."""
    one = t2l("adapters", "create", "Write a haiku")
    two = t2l("adapters", "create", "write a haiku")
    assert one["id"] == two["id"]
    t2l("adapters", "create", "haiku a write")  # the same words: the same embedding, nearly

    assert t2l("adapters", "dedupe", "--by", "text", "--dry-run", "--apply", "-y") != []
    (merge,) = t2l("adapters", "dedupe", "--by", "text")
    assert merge["into"] == one["id"]
    t2l("adapters", "dedupe", "--by", "text", "--apply", code=2)
    t2l("adapters", "dedupe", "--by", "text", "--apply", "-y")

    (left,) = t2l("adapters", "list")
    assert (left["id"], left["n_descriptions"]) == (one["id"], 2)


def test_index(store):
    """The index is described and built anew."""
    t2l("adapters", "create", "Write a haiku")

    (partition,) = t2l("index", "status")
    assert (partition["encoder"], partition["embeddings"], partition["indexed"]) == ("words", 1, 1)
    program = click.testing.CliRunner().invoke(index.command, ["rebuild"])
    assert program.exit_code == 0


def test_index_migrate():
    """A migration is planned, applied, and seen to be done; the old encoder is then refused."""
    for text in ("Write a haiku", "Solve the equation"):
        t2l("adapters", "create", text)

    plan = t2l("index", "migrate", "plan")
    assert (plan["missing"], plan["is_done"]) == (2, False)
    assert t2l("index", "migrate", "apply", "--forget")["is_done"]
    assert t2l("index", "migrate", "status")["others"] == 0
    assert "t2l index migrate" in t2l("adapters", "search", "haiku", code=4).stderr


def test_backup_and_restore(tmp_path):
    """A backup restores into an empty library, and into no other."""
    made = t2l("adapters", "create", "Write a haiku")

    t2l("db", "backup", "saved")
    assert "exists" in t2l("db", "backup", "saved", code=4).stderr
    assert "empty" in t2l("db", "restore", "saved", code=4).stderr
    assert "no backup" in t2l("db", "restore", "nowhere", code=3).stderr
    other = ["--data-dir", str(tmp_path / "other")]
    assert t2l("db", "restore", "saved", *other)["adapters"] == 1
    assert t2l("adapters", "show", made["id"], *other)["id"] == made["id"]


def test_db_status():
    """The schema's version is shown before and after it is made."""
    assert t2l("db", "status")["schema"] is None
    t2l("db", "migrate")
    assert t2l("db", "status")["is_current"]


def test_module_shapes():
    """Every layer's module has its own path and shape."""
    assert storage.module_shapes(SPEC)["model.layers.1.self_attn.v_proj"] == (8, 6)
    assert len(storage.module_shapes(SPEC)) == 4


def test_create_from_examples(tmp_path):
    """What examples tell is kept under their name, which lists show first, and no search finds."""
    (tmp_path / "loud.jsonl").write_text('{"input": "sun", "output": "SUN"}\n')
    made = t2l("adapters", "create", "Say it louder", "--examples", "loud.jsonl")
    again = t2l("adapters", "create", "Say it LOUDER", "--examples", "loud.jsonl")
    alone = t2l("adapters", "create", "--examples", "loud.jsonl")
    sentence = t2l("adapters", "create", "Say it louder")

    assert made["id"] == again["id"]
    assert len({made["id"], alone["id"], sentence["id"]}) == 3
    assert made["description"].startswith("Say it louder [1 example, ")
    assert [hit["id"] for hit in t2l("adapters", "search", "Say it louder")] == [sentence["id"]]
    assert t2l("adapters", "show", made["id"])["descriptions"] == [made["description"]]
