"""What a model folder must contain, byte for byte, and the fingerprint of what it computes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from t2l_router.errors import ModelCorrupt
from t2l_router.models.catalogue import Kind

MANIFEST_FILE = "t2l_manifest.json"

# Rewritten by whoever saves the config; they change nothing that the model computes.
_VOLATILE_CONFIG_KEYS = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and sha256 (hex) of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    The record of one model folder.

    Args:
        name: The model's name.
        kind: Base model or encoder.
        source: Where the files come from.
        revision: The hub commit, or the requirements of the packages.
        licence: SPDX id or name of the terms; empty if unknown.
        fingerprint: See `fingerprint`.
        files: Every file of the folder except the manifest, by its path relative to the folder.
    """

    name: str
    kind: Kind
    source: Literal["hub", "packages"]
    revision: str
    licence: str
    fingerprint: str
    files: dict[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        """Disk space of all files together."""
        return sum(record.size_bytes for record in self.files.values())

    def write(self, folder: Path) -> None:
        """Write the manifest into *folder*; the caller publishes the folder afterwards."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


_PARSER = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> Manifest | None:
    """
    Read the manifest of *folder*; None if it has none.

    Raises:
        ModelCorrupt: The manifest is not readable.
    """
    path = folder / MANIFEST_FILE
    try:
        return _PARSER.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValidationError, OSError) as error:
        raise ModelCorrupt(
            f"{path} can't be read; fetch the model again with `t2l models pull`"
        ) from error


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash every file of *folder* except the manifest."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, sha256_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def find_damage(folder: Path, manifest: Manifest) -> str | None:
    """Say what is wrong with the first file that isn't as recorded; None if all are."""
    for name, record in manifest.files.items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
        except OSError:
            return f"{path} is missing"
        if size_bytes != record.size_bytes:
            return f"{path} has {size_bytes} bytes instead of {record.size_bytes}"
        if sha256_file(path) != record.sha256:
            return f"{path} has changed (its sha256 differs from the one recorded)"
    return None


def sha256_file(path: Path) -> str:
    """Hash one file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> str:
    """
    Derive the identity of a model: equal fingerprints mean equal outputs for equal texts.

    Semantics:
        sha256 over the config without volatile keys, every tensor (name, dtype, shape, bytes, in
        the order of names, however they are spread over files) and ``tokenizer.json``.
        Chat template and generation defaults don't count: they shape prompts, not the model.

    Args:
        folder: A model folder in Hugging Face layout with ``config.json``, ``tokenizer.json`` and
            safetensors weights at its top.

    Raises:
        ModelCorrupt: One of these files is missing or malformed.
    """
    digest = hashlib.sha256()

    def field(data: bytes) -> None:
        # A length before each field: no two different inputs give the same byte stream.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    try:
        config = json.loads((folder / "config.json").read_bytes())
        kept = {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
        field(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())
        for tensor in sorted(_tensors(folder), key=lambda tensor: tensor.name):
            field(tensor.name.encode())
            field(f"{tensor.dtype}{tensor.shape}".encode())
            digest.update(tensor.size_bytes.to_bytes(8, "little"))
            for chunk in tensor.chunks():
                digest.update(chunk)
        field((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelCorrupt(f"{folder} is not a usable model folder: {error!r}") from error
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where one tensor lies inside a safetensors file."""

    path: Path
    name: str
    dtype: str
    shape: list[int]
    start: int
    size_bytes: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.size_bytes
            while left:
                chunk = file.read(min(_CHUNK_BYTES, left))
                if not chunk:
                    raise ValueError(f"{self.path} ends inside of {self.name}")
                left -= len(chunk)
                yield chunk


def _tensors(folder: Path) -> Iterator[_StoredTensor]:
    single = folder / "model.safetensors"
    # The files that transformers reads; a folder may hold the weights in another form as well.
    paths = [single] if single.exists() else sorted(folder.glob("model-*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no model.safetensors in {folder}")
    for path in paths:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > path.stat().st_size:
                raise ValueError(f"{path} has no safetensors header")
            header: dict[str, Any] = json.loads(file.read(header_bytes))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            start = 8 + header_bytes + begin
            yield _StoredTensor(path, name, entry["dtype"], entry["shape"], start, end - begin)
