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

from filelock import FileLock, Timeout

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models.catalogue import KNOWN_MODELS, Kind, canonical_name, find
from t2l_router.models.manifest import (
    MANIFEST_FILE,
    Manifest,
    find_damage,
    fingerprint,
    read_manifest,
)

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
    folder = model_folder(canonical_name(name), cache_dir)
    manifest = read_manifest(folder)
    return None if manifest is None else _found(folder, manifest)


def installed(cache_dir: Path) -> list[str]:
    """Name the models in the cache, also those whose files are damaged."""
    manifests = (cache_dir / "models").glob(f"[!.]*/{MANIFEST_FILE}")
    return sorted(path.parent.name.replace("--", "/", 1) for path in manifests)


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


def removable(name: str, *, cache_dir: Path) -> list[Path]:
    """
    List the folders that `remove` would remove: the model, damaged or not, and kept downloads.

    Raises:
        ModelUnavailable: *name* is a folder used in place: it isn't ours to remove.
    """
    if as_folder(name) is not None:
        raise ModelUnavailable(f"{name} is a folder of yours, used in place; remove it yourself")
    name = canonical_name(name)
    folders = (
        model_folder(name, cache_dir),
        partial_folder(name, cache_dir),
        downloads_folder(name, cache_dir),
    )
    return [folder for folder in folders if folder.exists()]


def remove(name: str, *, cache_dir: Path) -> None:
    """
    Remove a model from the cache; a server that has it loaded keeps running.

    Raises:
        ModelUnavailable: *name* is a folder used in place: it isn't ours to remove.
    """
    if removable(name, cache_dir=cache_dir):
        with locked(canonical_name(name), cache_dir):
            for folder in removable(name, cache_dir=cache_dir):
                _discard(folder)


def size_bytes(folder: Path) -> int:
    """Sum up the sizes of all files below *folder*."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def as_folder(name: str) -> Path | None:
    """Take *name* as a folder in Hugging Face layout if it is one and not a known model's name."""
    path = Path(name).expanduser()
    if find(name) is not None or not (path / "config.json").is_file():
        return None
    return path.resolve()


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
    """
    Keep other processes from building or removing the same model meanwhile.

    Raises:
        ModelUnavailable: The cache can't be written.
    """
    path = cache_dir / "models" / f".{_slug(name)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The kernel drops the lock with its process, so a killed pull never blocks the next one.
        lock = FileLock(path)
        lock.acquire()
    except (OSError, Timeout) as error:
        raise ModelUnavailable(
            f"the model cache {cache_dir} can't be written ({error}); set cache_dir to a folder "
            "of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


def publish(name: str, cache_dir: Path) -> None:
    """Put the finished partial folder into its place, replacing a damaged one if there is one."""
    partial, final = partial_folder(name, cache_dir), model_folder(name, cache_dir)
    for path in (*partial.rglob("*"), partial):
        if path.is_file():
            # Some writers make files for the owner alone; the manifest has the umask's mode.
            shutil.copymode(partial / MANIFEST_FILE, path)
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
            f"{name!r} is neither a model folder (with a config.json) nor a model name such as "
            f"{KNOWN_MODELS[0].name}"
        )
    return name.replace("/", "--")


def _found(folder: Path, manifest: Manifest) -> LocalModel:
    return LocalModel(manifest.name, manifest.kind, folder, manifest.fingerprint)


def _used_in_place(folder: Path, cache_dir: Path) -> LocalModel:
    """Open an operator's own folder; its fingerprint is kept as long as no file changes."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return _found(folder, manifest)
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    state = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]
    key = hashlib.sha256(json.dumps([str(folder), state]).encode()).hexdigest()
    remembered = cache_dir / "models" / ".in-place" / key
    if remembered.exists():
        known_fingerprint = remembered.read_text()
    else:
        known_fingerprint = fingerprint(folder)
        with contextlib.suppress(OSError):  # a cache that can't be written costs time only
            remembered.parent.mkdir(parents=True, exist_ok=True)
            beside = remembered.with_suffix(f".{os.getpid()}")
            beside.write_text(known_fingerprint)
            beside.replace(remembered)
    kind: Kind = "encoder" if (folder / "modules.json").exists() else "base"
    return LocalModel(str(folder), kind, folder, known_fingerprint)


def _discard(folder: Path) -> None:
    """Remove a folder so that no moment shows a half of it under its name."""
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
