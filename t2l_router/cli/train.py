"""``t2l train``: a hypernetwork for a base model and tasks of one's own."""

import contextlib
import sys
from pathlib import Path

import click

from t2l_router.cli.output import Output, output_option

_DEFAULT_BASE = "smollm2-135m-instruct"


@click.command()
@click.option(
    "--base", "--base-model", "base", default=_DEFAULT_BASE, show_default=True, help="Base model."
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tasks.jsonl.",
)
@click.option(
    "-o",
    "--out",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the run is kept; its checkpoint/ is the result.",
)
@click.option("--encoder", default="all-minilm-l6-v2", show_default=True, help="Task encoder.")
@click.option("--variant", type=click.Choice(["L", "M", "S"]), default="L", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=1600, show_default=True)
@click.option("--tasks-per-step", type=click.IntRange(1), default=64, show_default=True)
@click.option("--row-tokens", type=click.IntRange(64), default=512, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(16),
    default=384,
    show_default=True,
    help="Longer examples are left out.",
)
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="LoRA rank.")
@click.option("--targets", default="q_proj,v_proj", show_default=True, help="Target modules.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the layers: twice as fast.")
@click.option("--any-licence", is_flag=True, help="Use tasks whose weights may not be passed on.")
@click.option("--check", "check_only", is_flag=True, help="Only check the data.")
@output_option
def command(
    data: Path, directory: Path, out: Output, *, compiled: bool, check_only: bool, **plan: object
) -> None:
    """
    Train a hypernetwork for a base model on your own tasks.

    The same command again goes on where a stopped run was.
    The guide is docs/training.md.

    Example: t2l train --base smollm2-135m-instruct --data my-tasks -o runs/mine
    """
    from training.check import check  # noqa: PLC0415 - help needs none of it

    report = check(data)
    if check_only:
        out.record({"tasks": report.tasks, "examples": report.examples})
        return
    out.note(f"{report.tasks:,} tasks, {report.examples:,} examples")
    from t2l_router.bootstrap import torch_device  # noqa: PLC0415 - as below
    from t2l_router.models.load import no_progress_bars  # noqa: PLC0415 - as below
    from training.fit import Plan, fit  # noqa: PLC0415 - imports torch

    if row_too_short(plan):
        raise click.UsageError("--max-tokens is larger than --row-tokens: no row would hold one")
    plan["device"] = torch_device(str(plan["device"]))
    # Progress is not data: only the result goes to stdout.
    with contextlib.redirect_stdout(sys.stderr), no_progress_bars():
        checkpoint = fit(Plan(data=data, out=directory, compile=compiled, **plan))  # type: ignore[arg-type]
    out.record({"checkpoint": checkpoint.absolute(), "serve": f"t2l serve --hypernet {checkpoint}"})


def row_too_short(plan: dict[str, object]) -> bool:
    """Whether examples may be longer than the rows they are packed into."""
    return int(str(plan["max_tokens"])) > int(str(plan["row_tokens"]))
