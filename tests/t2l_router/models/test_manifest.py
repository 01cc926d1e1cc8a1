import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from t2l_router.errors import ModelCorrupt
from t2l_router.models import LocalModel
from t2l_router.models.manifest import (
    MANIFEST_FILE,
    Manifest,
    find_damage,
    fingerprint,
    read_manifest,
    record_files,
)


@pytest.fixture
def folder(tiny_base: LocalModel, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_base.path, tmp_path / "model"))


def manifest_of(folder: Path) -> Manifest:
    return Manifest("acme/tiny", "base", "hub", "c0ffee", "mit", "f" * 64, record_files(folder))


def test_manifest_round_trip(folder: Path) -> None:
    """A manifest reads as it was written, and doesn't record itself."""
    manifest = manifest_of(folder)
    manifest.write(folder)

    assert manifest == read_manifest(folder)
    assert manifest_of(folder) == manifest
    assert find_damage(folder, manifest) is None


def test_no_manifest(tmp_path: Path) -> None:
    """A folder without a manifest has none; that is no error."""
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"name": "x", "files": {"a": 1}}', "\xff"])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    """A manifest that doesn't parse says so, and what to do."""
    (tmp_path / MANIFEST_FILE).write_bytes(content.encode("latin-1"))

    with pytest.raises(ModelCorrupt, match="t2l models pull"):
        read_manifest(tmp_path)


@settings(max_examples=40)
@given(data=st.data())
def test_any_flipped_bit_is_found(tiny_base: LocalModel, data: st.DataObject) -> None:
    """Whatever bit of whatever file flips, the damage is found and the file named."""
    files = record_files(tiny_base.path)
    manifest = Manifest("acme/tiny", "base", "hub", "c0ffee", "mit", "f" * 64, files)
    name = data.draw(st.sampled_from(sorted(files)))
    path = tiny_base.path / name
    original = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(flipped)
        damage = find_damage(tiny_base.path, manifest)
    finally:
        path.write_bytes(original)

    assert damage is not None
    assert name in damage


def test_cut_off_and_missing_files_are_found(folder: Path) -> None:
    """A file that lost its end is named with both sizes; a lost file is named."""
    manifest = manifest_of(folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()

    weights.write_bytes(content[:-1])
    assert f"{len(content) - 1} bytes instead of {len(content)}" in find_damage(folder, manifest)

    weights.unlink()
    assert "model.safetensors is missing" in find_damage(folder, manifest)


def test_fingerprint_ignores_who_saved_the_config(folder: Path, tiny_base: LocalModel) -> None:
    """Version stamps, key order and the chat template change no fingerprint."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"transformers_version": "99.0", "_name_or_path": "elsewhere"}
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    (folder / "tokenizer_config.json").write_text("{}")

    assert tiny_base.fingerprint == fingerprint(folder)


def test_fingerprint_ignores_how_weights_are_spread(folder: Path, tiny_base: LocalModel) -> None:
    """Two shards with another header give the fingerprint of the one file."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    for shard, chosen in enumerate((names[:3], names[3:])):
        save_file({name: tensors[name] for name in chosen}, folder / f"model-{shard}.safetensors")

    assert tiny_base.fingerprint == fingerprint(folder)


def test_fingerprint_ignores_a_second_copy_of_the_weights(folder: Path, tiny_base) -> None:
    """Weights in a form that transformers doesn't read don't count."""
    (folder / "consolidated.safetensors").write_bytes(b"other")

    assert tiny_base.fingerprint == fingerprint(folder)


@pytest.mark.parametrize("change", ["config", "weight", "dtype", "name", "tokenizer"])
def test_fingerprint_sees_what_counts(folder: Path, tiny_base: LocalModel, change: str) -> None:
    """Config, any weight, its dtype or name, and the tokenizer each change the fingerprint."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    first = min(tensors)
    if change == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    elif change == "weight":
        tensors[first].view(-1)[-1] += 1
    elif change == "dtype":
        tensors[first] = tensors[first].to(torch.float64)
    elif change == "name":
        tensors[first + ".x"] = tensors.pop(first)
    else:
        (folder / "tokenizer.json").write_text("{}")
    save_file(tensors, weights)

    assert tiny_base.fingerprint != fingerprint(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"[]", b"\x02" + b"\0" * 9]
)
def test_fingerprint_of_broken_safetensors(folder: Path, content: bytes) -> None:
    """A safetensors file that isn't one is an error that names the folder."""
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(ModelCorrupt, match="is not a usable model folder"):
        fingerprint(folder)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_fingerprint_needs_all_parts(folder: Path, lost: str) -> None:
    """A folder without config, tokenizer or safetensors weights has no fingerprint."""
    (folder / lost).unlink()

    with pytest.raises(ModelCorrupt, match="is not a usable model folder"):
        fingerprint(folder)
