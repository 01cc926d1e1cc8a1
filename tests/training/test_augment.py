import json
import random

import pytest

from training import augment
from training.corpus import load_tasks


@pytest.fixture
def corpus(tmp_path):
    """A task with two labels, one with free answers, one kept for evaluation."""
    folder = tmp_path / "corpus"
    (folder / "data").mkdir(parents=True)
    lines = []
    for name, split in (("even", "train"), ("free", "train"), ("held", "heldout")):
        lines.append({"task": name, "split": split, "descriptions": ["Is it even?"]})
        lines[-1] |= {"terse_descriptions": ["even"], "file": f"data/{name}.jsonl"}
        rows = [
            {"input": str(i), "output": str(i * i) if name == "free" else "yn"[i % 2]}
            for i in range(40)
        ]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_renames_labels_of_training_tasks(corpus, tmp_path) -> None:
    """Only the training task with few labels gets variants; inputs stay, labels change alike."""
    augment.main(["--corpus", str(corpus), "--out", str(tmp_path / "new"), "--variants", "2"])
    tasks = {task.name: task for task in load_tasks(tmp_path / "new", ["train", "heldout"])}

    assert {"even", "free", "held", "even_renamed_0", "even_renamed_1"} == set(tasks)
    old = [*tasks["even"].examples("train")]
    new = [*tasks["even_renamed_0"].examples("train")]
    names = dict({(o.outputs[0], n.outputs[0]) for o, n in zip(old, new, strict=True)})
    assert {"y", "n"} == set(names)
    assert len(set(names.values()) - {"y", "n"}) == 2
    assert [e.text for e in old] == [e.text for e in new]
    description = tasks["even_renamed_0"].training_descriptions[0]
    assert description.startswith("Is it even? Answer with ")
    assert all(f'"{new}" for "{old}"' in description for old, new in names.items())
    assert all(
        f'"{new}"' in tasks["even_renamed_0"].terse_descriptions[0] for new in names.values()
    )


def test_no_label_keeps_its_word() -> None:
    """Whatever is drawn, every label gets another word, each its own."""
    for seed in range(50):
        words = ["no", "tea", "oak", "sun", "moon", "red"]
        names = augment.rename(["yes", "no", "maybe"], words, random.Random(seed))
        assert len(set(names.values())) == 3
        assert all(old != new for old, new in names.items())


@pytest.mark.parametrize(
    "outputs", [["a"] * 40, ["a", "b"] * 3, [f"{i}" for i in range(40)], ["x" * 40, "b"] * 20]
)
def test_no_choice_among_few(outputs) -> None:
    """One label, few examples, many answers or long ones: nothing to rename."""
    assert augment.labels_of([{"output": output} for output in outputs]) == []
