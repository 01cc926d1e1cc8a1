import json

import pytest
from click.testing import CliRunner

from t2l_router import checkpoint
from t2l_router.cli.main import main
from tests.specs import reading_hypernet

EXAMPLES = [{"input": "I loved it", "output": "good"}, {"input": "So dull", "output": "bad"}]


def t2l(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["generate", *map(str, words)])
    assert code == result.exit_code, result.output
    return result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n", "holds no example"),
        ('{"input": "a", "output": "b"}\n{"input": "a"}', "line 2: not an example"),
        ('{"input": "a", "output": 3}', "line 1"),
        ("input,output", 'write one a line, as {"input"'),
    ],
)
def test_bad_examples(tmp_path, text: str, says: str) -> None:
    """A file that holds no examples is refused by its line, before anything is loaded."""
    (tmp_path / "examples.jsonl").write_text(text)
    said = t2l("--examples", tmp_path / "examples.jsonl", "-o", tmp_path / "adapter", code=2)

    assert says in said


def test_examples_of_another_program(tmp_path) -> None:
    """A mark at the file's beginning is passed over; another encoding is named, not shown."""
    (tmp_path / "marked.jsonl").write_text('{"input": "a", "output": "b"}', "utf-8-sig")
    (tmp_path / "latin.jsonl").write_text('{"input": "à", "output": "b"}', "latin-1")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "thesis.tex").touch()

    marked = t2l("--examples", tmp_path / "marked.jsonl", "-o", tmp_path / "adapter", code=4)
    latin = t2l("--examples", tmp_path / "latin.jsonl", "-o", tmp_path / "adapter", code=2)

    assert "is not empty" in marked
    assert "latin.jsonl is not UTF-8: byte 11" in latin


def test_neither_description_nor_examples(tmp_path) -> None:
    """With nothing to go by, the usage says what to give."""
    assert "--examples FILE, or both" in t2l("-o", tmp_path / "adapter", code=2)


@pytest.fixture(scope="module")
def conditioned(tiny_base, minilm, tmp_path_factory):
    """A hypernetwork for the tiny model that reads tokens, with random weights."""
    hypernet = reading_hypernet(
        tiny_base,
        dim=384,
        encoder="sentence-transformers/all-MiniLM-L6-v2",
        fingerprint=minilm.fingerprint,
    )
    folder = tmp_path_factory.mktemp("conditioned")
    checkpoint.save_pretrained(hypernet, folder / "hypernet", card="")
    return folder / "hypernet"


@pytest.mark.real
def test_examples_shape_the_adapter(conditioned, tiny_base, tmp_path) -> None:
    """Examples alone, a description alone and both give three different adapters."""
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    options = ["--hypernet", conditioned, "--base-model", tiny_base.name, "--format", "json"]
    said = [
        t2l(*words, *options, "-o", tmp_path / str(number))
        for number, words in enumerate(
            (["Is it good?"], ["--examples", file], ["Is it good?", "--examples", file])
        )
    ]
    ids = {json.loads(text[text.index("{") :])["id"] for text in said}

    assert len(ids) == 3


@pytest.mark.real
@pytest.mark.slow
def test_the_one_that_ships(tmp_path) -> None:
    """With the checkpoint that ships, the answers in the examples decide the adapter."""
    ids = set()
    for number, output in enumerate(["good", "gut"]):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps({"input": "I loved it", "output": output}))
        options = ["--format", "json", "--examples", file]
        text = t2l("Is it good?", *options, "-o", tmp_path / str(number))
        ids.add(json.loads(text[text.index("{") :])["id"])

    assert len(ids) == 2


@pytest.mark.real
def test_hypernetwork_without_examples(tmp_path) -> None:
    """One that reads descriptions alone says so and names what to do."""
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps(EXAMPLES[0]))
    options = ["--hypernet", "default-sentences", "--examples", file]

    assert "reads no examples" in t2l(*options, "-o", tmp_path / "adapter", code=2)
