"""
Foreign adapters: PEFT directories and zip files that anybody may have made.

Only three file names are ever read, each no further than its limit. Whatever could act or escape
(pickles, links, absolute or climbing paths) makes the whole source unacceptable, even where it
would not be read: it shows that the source is not what it claims to be.
"""

import json
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from adapters_store.blobs import MANIFEST_FILE
from adapters_store.errors import InvalidImport, InvalidName
from adapters_store.names import check_description
from adapters_store.peft_files import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    MAX_WEIGHTS_BYTES,
    WEIGHTS_FILE,
    AdapterFiles,
)

LIMITS = {
    CONFIG_FILE: MAX_CONFIG_BYTES,
    MANIFEST_FILE: MAX_CONFIG_BYTES,
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
}
_MAX_ENTRIES = 1000
_MAX_ZIP_DIRECTORY = 1 << 20
_MAX_ZIP_END = 22 + 20 + 65_535  # the record, the one before it, the longest comment
_MAX_DESCRIPTIONS = 1000
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    What an export of ours says about an adapter besides PEFT's two files.

    Args:
        base: Fingerprint of its base model.
        descriptions: Texts that reached it, the oldest first.
        hypernet_id: The hypernetwork that wrote it.
    """

    base: str
    descriptions: tuple[str, ...] = ()
    hypernet_id: str | None = None


@dataclass(frozen=True, slots=True)
class Foreign:
    """
    A foreign adapter, read and checked as far as files can be.

    Args:
        files: PEFT's two files.
        manifest: Ours, where it came from an export.
        source: Where it was read from, for its lineage.
    """

    files: AdapterFiles
    manifest: Manifest | None
    source: str


def read_path(path: Path) -> Foreign:
    """
    Read a PEFT directory or a zip file of one.

    Raises:
        InvalidImport: It is neither, or not safe, or no LoRA adapter.
    """
    try:
        if path.is_dir():
            return _read_directory(path)
        if path.is_file():
            with path.open("rb") as file:
                return read_zip(file, str(path))
    except OSError as error:
        raise InvalidImport(f"{path}: can't be read: {error}") from error
    raise InvalidImport(f"{path}: there is no such directory or zip file")


def assemble(read: Callable[[str], bytes | None], source: str) -> Foreign:
    """
    Make a foreign adapter of its files.

    Args:
        read: File name -> its bytes, or None where it is missing; keeps to `LIMITS`.
        source: Where it was read from.
    """
    config, weights = read(CONFIG_FILE), read(WEIGHTS_FILE)
    if config is None or weights is None:
        missing = CONFIG_FILE if config is None else WEIGHTS_FILE
        raise InvalidImport(f"{source}: {missing} is missing; only safetensors adapters are read")
    files = AdapterFiles(config, weights).canonical()
    manifest = read(MANIFEST_FILE)
    return Foreign(files, None if manifest is None else _parse_manifest(manifest), source)


def _read_directory(directory: Path) -> Foreign:
    names = sorted(entry.name for entry in directory.iterdir())
    _refuse_pickles(names, str(directory))
    for name in names:
        if (directory / name).is_symlink():
            raise InvalidImport(f"{directory / name} is a link; import needs the file itself")

    def read(name: str) -> bytes | None:
        if name not in names:
            return None
        # O_NOFOLLOW: the entry may have become a link since it was looked at.
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise InvalidImport(f"{directory / name} is no regular file")
            return capped(name, info.st_size, file.read)

    return assemble(read, str(directory))


def read_zip(file: BinaryIO, source: str, *, max_bytes: int = MAX_WEIGHTS_BYTES) -> Foreign:
    """
    Read an adapter from a zip file of its directory.

    Args:
        file: Can be sought in.
        source: Where it came from, for errors and the adapter's lineage.
        max_bytes: Longest weights, unpacked.

    Raises:
        InvalidImport: It is none, or not safe, or no LoRA adapter.
    """
    _check_directory(file, source)
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, source)

            def read(name: str) -> bytes | None:
                member = members.get(name)
                if member is None:
                    return None
                with archive.open(member) as entry:
                    return capped(name, member.file_size, entry.read, at_most=max_bytes)

            return assemble(read, source)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise InvalidImport(f"{source}: not a readable zip file: {error}") from error


def _check_directory(file: BinaryIO, source: str) -> None:
    """
    Make sure that the zip's table of contents is short, before `zipfile` reads all of it.

    Raises:
        InvalidImport: It is long, or missing, or of the form for huge archives.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MAX_ZIP_END))
    end = file.read()
    file.seek(0)
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) < at + 22:
        raise InvalidImport(f"{source}: this is no zip file")
    length = int.from_bytes(end[at + 12 : at + 16], "little")
    if length > _MAX_ZIP_DIRECTORY or end[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise InvalidImport(f"{source}: too many entries; an adapter has a handful")


def _members(archive: zipfile.ZipFile, source: str) -> Mapping[str, zipfile.ZipInfo]:
    """The files of the zip's only directory by name; every entry must be harmless."""
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise InvalidImport(f"{source}: {len(entries)} entries; an adapter has a handful")
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        if name.is_absolute() or ".." in name.parts or set("\\:") & set(entry.filename):
            raise InvalidImport(f"{source}: entry {entry.filename[:120]!r} points outside the zip")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidImport(f"{source}: entry {entry.filename[:120]!r} is a link or device")
        if entry.is_dir():
            continue
        if name.name in LIMITS:
            if name.name in found:
                raise InvalidImport(f"{source}: {name.name} is there twice")
            found[name.name] = entry
            folders.add(name.parent)
    _refuse_pickles([entry.filename for entry in entries], source)
    if len(folders) > 1:
        raise InvalidImport(f"{source}: the adapter's files lie in several directories")
    return found


def _refuse_pickles(names: list[str], source: str) -> None:
    for name in names:
        if name.lower().endswith(_PICKLES):
            raise InvalidImport(
                f"{source} holds {name[:120]!r}, which may run code when it is loaded; "
                "save the adapter as safetensors and leave that file out"
            )


def capped(
    name: str,
    announced: int,
    read: Callable[[int], bytes],
    *,
    at_most: int = MAX_WEIGHTS_BYTES,
) -> bytes:
    """
    Read a file no further than `LIMITS` allows.

    Args:
        name: The file's; ours have limits of their own.
        announced: Its size by what its container says.
        read: Gives at most that many bytes of it.
        at_most: A lower limit.

    Raises:
        InvalidImport: It is too long.
    """
    limit = min(LIMITS.get(name, MAX_CONFIG_BYTES), at_most)
    if announced > limit:
        raise InvalidImport(f"{name} has {announced} bytes; at most {limit} are accepted")
    data = read(limit + 1)
    if len(data) > limit:
        raise InvalidImport(f"{name} has more than {limit} bytes, and lies about it")
    return data


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest without its descriptions, as `read_path` reads it."""
    values = {"base_fingerprint": manifest.base, "hypernet_id": manifest.hypernet_id}
    return json.dumps(values).encode()


def _parse_manifest(data: bytes) -> Manifest:
    try:
        values = json.loads(data)
        base, texts = str(values["base_fingerprint"]), values.get("descriptions", [])
        hypernet = values.get("hypernet_id")
        if not isinstance(texts, list) or len(texts) > _MAX_DESCRIPTIONS or len(base) > 128:  # noqa: PLR2004
            raise InvalidImport(f"{MANIFEST_FILE} has impossible values")
        return Manifest(
            base,
            tuple(check_description(str(text)) for text in texts),
            None if hypernet is None else str(hypernet)[:128],
        )
    except (ValueError, KeyError, TypeError, AttributeError, InvalidName) as error:
        raise InvalidImport(f"{MANIFEST_FILE} is damaged: {error}") from error
