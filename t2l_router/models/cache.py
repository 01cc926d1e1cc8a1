"""The models on this machine's disk: ``<cache_dir>/models/<org>--<name>/``, complete or absent."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models.catalogue import KNOWN_MODELS, Kind, canonical_name
from t2l_router.models.manifest import Manifest, find_damage, fingerprint, read_manifest

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """
    A model on this machine's disk.

    Args:
        name: Its name on the hub, or the folder it was given as.
        kind: Base model or encoder.
        path: Folder in Hugging Face layout.
        fingerprint: Identity of what it computes.
    """

    name: str
    kind: Kind
    path: Path
    fingerprint: str


def local(name: str, *, cache_dir: Path) -> LocalModel | None:
    """
    Find a model on the disk, without hashing its files; None if it has to be pulled.

    Args:
        name: Name or short name of a model, or a folder in Hugging Face layout.
        cache_dir: The cache; it need not exist.

    Raises:
        ModelUnavailable: *name* can't be the name of a model.
        ModelCorrupt: The model's manifest is damaged.
    """
    in_place = as_folder(name)
    if in_place is not None:
        return _used_in_place(in_place, cache_dir)
    name = canonical_name(name)
    folder = model_folder(name, cache_dir)
    manifest = read_manifest(folder)
    return None if manifest is None else _found(folder, manifest)


def installed(cache_dir: Path) -> list[tuple[LocalModel, Manifest]]:
    """List the models in the cache by name; folders without a readable manifest are left out."""
    found = []
    for folder in sorted((cache_dir / "models").glob("[!.]*")):
        with contextlib.suppress(ModelCorrupt):
            manifest = read_manifest(folder)
            if manifest is not None:
                found.append((_found(folder, manifest), manifest))
    return found


def verify(model: LocalModel) -> None:
    """
    Check every byte of a model against its manifest, or a folder used in place against its hash.

    Raises:
        ModelCorrupt: A file is missing, cut off or changed; the text says which and what to do.
    """
    manifest = read_manifest(model.path)
    if manifest is None:
        if fingerprint(model.path) != model.fingerprint:
            raise ModelCorrupt(f"{model.path} has changed since it was opened; start again")
        return
    damage = find_damage(model.path, manifest)
    if damage is None and manifest.fingerprint != model.fingerprint:
        damage = f"{model.path} was replaced by another version"
    if damage is not None:
        raise ModelCorrupt(
            f"{damage}; run `t2l models pull {model.name}` to fetch the model again "
            f"or `t2l models rm {model.name}` to remove it"
        )


def remove(name: str, *, cache_dir: Path) -> int:
    """
    Remove a model from the cache, damaged or not; downloads that were kept for it go as well.

    Returns:
        The bytes freed; 0 if there was nothing.

    Raises:
        ModelUnavailable: *name* is a folder used in place: it isn't ours to remove.
    """
    if as_folder(name) is not None:
        raise ModelUnavailable(f"{name} is a folder of yours, used in place; remove it yourself")
    name = canonical_name(name)
    with locked(name, cache_dir):
        doomed = (model_folder(name, cache_dir), partial_folder(name, cache_dir))
        freed = 0
        for folder in (*doomed, downloads_folder(name, cache_dir)):
            freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            _discard(folder)
    return freed


def as_folder(name: str) -> Path | None:
    """Take *name* as a folder if it is one and not the name of a known model."""
    if canonical_name(name) in {known.name for known in KNOWN_MODELS}:
        return None
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else None


def model_folder(name: str, cache_dir: Path) -> Path:
    """Where a model lies once it is complete."""
    return cache_dir / "models" / _slug(name)


def partial_folder(name: str, cache_dir: Path) -> Path:
    """Where a model is built; beside its final place, so that one rename publishes it."""
    return cache_dir / "models" / f".{_slug(name)}.partial"


def downloads_folder(name: str, cache_dir: Path) -> Path:
    """Where finished downloads of a model wait until it is complete."""
    return cache_dir / "downloads" / _slug(name)


@contextlib.contextmanager
def locked(name: str, cache_dir: Path) -> Iterator[None]:
    """Keep other processes from building or removing the same model."""
    folder = cache_dir / "models"
    folder.mkdir(parents=True, exist_ok=True)
    # The kernel drops the lock with its process, so a killed pull never blocks the next one.
    with FileLock(folder / f".{_slug(name)}.lock"):
        yield


def publish(name: str, cache_dir: Path) -> None:
    """Put the finished partial folder into its place, replacing a damaged one if there is one."""
    partial, final = partial_folder(name, cache_dir), model_folder(name, cache_dir)
    for path in (*partial.rglob("*"), partial):
        _fsync(path)
    if final.exists():
        _discard(final)
    partial.rename(final)
    _fsync(final.parent)


@contextlib.contextmanager
def disk_full_as(message: str) -> Iterator[None]:
    """Turn the operating system's "no space" into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(message) from error


def _slug(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ModelUnavailable(
            f"{name!r} is neither a folder nor a model name such as {KNOWN_MODELS[0].name}"
        )
    return name.replace("/", "--")


def _found(folder: Path, manifest: Manifest) -> LocalModel:
    return LocalModel(manifest.name, manifest.kind, folder, manifest.fingerprint)


def _used_in_place(folder: Path, cache_dir: Path) -> LocalModel:
    """Open an operator's own folder; its fingerprint is kept as long as no file changes."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return _found(folder, manifest)
    if not (folder / "config.json").exists():
        raise ModelUnavailable(f"{folder} holds no model: it has no config.json")
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    state = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]
    key = hashlib.sha256(json.dumps([str(folder), state]).encode()).hexdigest()
    remembered = cache_dir / "models" / ".in-place" / key
    if remembered.exists():
        known_fingerprint = remembered.read_text()
    else:
        known_fingerprint = fingerprint(folder)
        remembered.parent.mkdir(parents=True, exist_ok=True)
        beside = remembered.with_suffix(f".{os.getpid()}")
        beside.write_text(known_fingerprint)
        beside.replace(remembered)
    kind: Kind = "encoder" if (folder / "modules.json").exists() else "base"
    return LocalModel(str(folder), kind, folder, known_fingerprint)


def _discard(folder: Path) -> None:
    """Remove a folder so that no moment shows a half of it under its name."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name.lstrip('.')}.doomed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
