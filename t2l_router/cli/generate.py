"""``t2l generate``: a PEFT adapter from a sentence, a few examples, or both."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from safetensors import SafetensorError

from t2l_router import bootstrap
from t2l_router.cli.examples import examples_option, told
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Output, output_option, size
from t2l_router.config import Settings
from t2l_router.examples import Pair

if TYPE_CHECKING:
    from t2l_router.lora import LoraWeights

_ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}


@click.command()
@click.argument("description", required=False)
@click.option(
    "-o",
    "--out-dir",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the adapter directory is written.",
)
@examples_option
@click.option("--force", is_flag=True, help="Replace an adapter that is there already.")
@settings_options("base_model", "hypernet", "encoder", "device")
@output_option
def command(
    description: str | None,
    directory: Path,
    examples: tuple[Pair, ...],
    settings: Settings,
    out: Output,
    *,
    force: bool,
) -> None:
    """
    Write the adapter for a task to a directory that PEFT and vLLM load.

    Example: t2l generate "Answer with the sentiment of the review: positive or negative" -o mood
    """
    task = told(description, examples)
    _check_replaceable(directory, force=force)
    with loading() as (enter, progress):
        writing = bootstrap.load_writing(settings, enter=enter, progress=progress)
        writer = bootstrap.load_writer(settings, writing, enter=enter)
    start = time.perf_counter()
    weights = writer.write(task)
    milliseconds = (time.perf_counter() - start) * 1_000
    _write(weights, directory)
    n_bytes = sum(file.stat().st_size for file in directory.iterdir())
    record = {
        "id": weights.adapter_id,
        "path": directory.absolute(),
        "size": n_bytes,
        "base_model": writing.base.name,
        "milliseconds": round(milliseconds, 1),
    }
    out.record(record if out.style == "json" else record | {"size": size(n_bytes)})


def _write(weights: "LoraWeights", directory: Path) -> None:
    """Write the adapter beside and move it, so that nobody sees half of it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        try:
            weights.save_peft(new)
        except SafetensorError as error:  # safetensors has no other word for a full disk
            raise OSError(f"can't write {directory}: {error}") from None
        if directory.exists():
            directory.replace(old)
        try:
            new.replace(directory)
        except BaseException:
            old.replace(directory)
            raise


def _check_replaceable(directory: Path, *, force: bool) -> None:
    """Only an adapter is ever replaced, and only if asked for: a wrong path must not cost data."""
    found = {file.name for file in directory.iterdir()} if directory.exists() else set()
    if found and not force:
        raise FileExistsError(
            f"{directory} is not empty; give --force to replace the adapter there"
        )
    if not found <= _ADAPTER_FILES:
        raise FileExistsError(
            f"{directory} holds {min(found - _ADAPTER_FILES)!r}, so it is more than an adapter; "
            "choose another directory"
        )
