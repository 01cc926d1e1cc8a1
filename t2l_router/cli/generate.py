"""``t2l generate``: a PEFT adapter from a sentence, a few examples, or both."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from safetensors import SafetensorError

from t2l_router import bootstrap
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Output, output_option, size
from t2l_router.config import Settings
from t2l_router.describe import validated
from t2l_router.errors import ConfigError

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
@click.option(
    "--examples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='A few of the task\'s examples, a line each: {"input": "...", "output": "..."}. '
    "For a hypernetwork that reads examples.",
)
@click.option("--force", is_flag=True, help="Replace an adapter that is there already.")
@settings_options("base_model", "hypernet", "device")
@output_option
def command(
    description: str | None,
    directory: Path,
    examples: Path | None,
    settings: Settings,
    out: Output,
    *,
    force: bool,
) -> None:
    """
    Write the adapter for a task to a directory that PEFT and vLLM load.

    Example: t2l generate "Answer with the sentiment of the review: positive or negative" -o mood
    """
    if description is None and examples is None:
        raise click.UsageError("Give a description of the task, --examples FILE, or both.")
    text = validated(description) if description is not None else None
    pairs = read_examples(examples) if examples is not None else None
    _check_replaceable(directory, force=force)
    with loading() as (enter, progress):
        writing = bootstrap.load_writing(settings, enter=enter, progress=progress)
        reader = None
        if pairs or writing.generator.reads:
            reader = bootstrap.load_context_reader(settings, writing, enter=enter)
    start = time.perf_counter()
    embeddings = writing.encoder.embed([text or "."])
    if reader is not None:
        known = embeddings if text else np.zeros_like(embeddings)
        (weights,) = writing.generator.generate(reader.read(known, [text or ""], [pairs or []]))
    else:
        (weights,) = writing.generator.generate(embeddings)
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


def read_examples(path: Path) -> list[tuple[str, str]]:
    """
    Read a file of examples.

    Raises:
        ConfigError: It is empty, or a line isn't an input with its output.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            pairs.append((raw["input"], raw["output"]))
            good = all(isinstance(text, str) for text in pairs[-1])
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise ConfigError(
                f"{path}, line {number}: not an example; write one a line, as "
                '{"input": "...", "output": "..."}'
            )
    if not pairs:
        raise ConfigError(f"{path} holds no example")
    return pairs


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
