"""The kernels' shared library: built once for a CPU and a compiler, and kept in the cache."""

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib import resources
from pathlib import Path

logger = logging.getLogger(__name__)

_SOURCES = ("linear.c", "step.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_NEEDED = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_bf16"})
_TIMEOUT_S = 120


@lru_cache
def library(cache_dir: Path) -> ctypes.CDLL | None:
    """
    Load the kernels, and build them before if this CPU's aren't in the cache.

    Args:
        cache_dir: Where ``native/`` is.

    Returns:
        None where they can't run: another CPU, no C compiler, or one that fails. The log says why.
    """
    flags = _cpu_flags()
    if platform.machine() != "x86_64" or not flags >= _NEEDED:
        logger.info("no native kernels: this CPU lacks AVX-512 with bfloat16 products")
        return None
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    texts = {name: resources.files(__package__).joinpath(name).read_text() for name in _SOURCES}
    digest = hashlib.sha256(repr((texts, _FLAGS, sorted(flags))).encode()).hexdigest()[:16]
    path = cache_dir / "native" / f"{digest}.so"
    try:
        if not path.exists():
            if compiler is None:
                logger.info("no native kernels: there is no C compiler (cc, gcc or clang)")
                return None
            _build(compiler, texts, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        logger.warning("no native kernels: %s", str(said)[-500:])
        return None


def _build(compiler: str, texts: dict[str, str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text)
        made = Path(folder) / "made.so"
        command = [compiler, *_FLAGS, str(Path(folder) / "step.c"), "-o", str(made), "-lm"]
        subprocess.run(  # noqa: S603 - a compiler from the operator's PATH, sources of our own
            command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        made.replace(path)  # whole or not at all, whoever else builds it
    logger.info("built native kernels: %s", path)


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
