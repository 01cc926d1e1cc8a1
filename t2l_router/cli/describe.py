"""``t2l describe``: a language model writes the descriptions of tasks to train on."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2l_router import bootstrap
from t2l_router.cli.loading import bars, loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Output, output_option
from t2l_router.config import Settings
from t2l_router.inprocess import InProcessClient

if TYPE_CHECKING:
    from training.describe_tasks import Ask, Plan

_OURS = "t2l/"
_NAMED = 5  # tasks in a warning


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tasks.jsonl, which is added to.",
)
@click.option(
    "--model",
    required=True,
    help="litellm's name, e.g. openai/gpt-4o-mini; t2l/t2l:base is the local base model.",
)
@click.option("--api-base", default=None, help="Address of the model's server.")
@click.option(
    "--field",
    type=click.Choice(["descriptions", "terse_descriptions", "eval_descriptions"]),
    default="descriptions",
    show_default=True,
    help="Which list of a task grows.",
)
@click.option("--per-task", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--per-call", type=click.IntRange(1), default=20, show_default=True, help="Asked for at once."
)
@click.option(
    "--pairs", type=click.IntRange(1), default=5, show_default=True, help="Examples in a prompt."
)
@click.option(
    "--parallel", type=click.IntRange(1), default=4, show_default=True, help="Calls at a time."
)
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--timeout", "timeout_s", type=float, default=120.0, show_default=True, help="s")
@click.option("--dry-run", is_flag=True, help="Ask nothing; show the first prompt and the number.")
@settings_options("base_model", "device")
@output_option
def command(
    settings: Settings,
    out: Output,
    *,
    api_base: str | None,
    dry_run: bool,
    temperature: float,
    timeout_s: float,
    **given: Any,
) -> None:
    """
    Write descriptions of tasks with a language model, for training.

    Each call shows some examples of one task; nothing is kept twice.
    The same command again goes on where a stopped run was.
    The guide is docs/training.md.

    Example: t2l describe --data my-tasks --model openai/gpt-4o-mini
    """
    from training.describe_tasks import (  # noqa: PLC0415 - help needs none of it
        Plan,
        describe,
        missing,
        prompt,
        read_tasks,
    )

    plan = Plan(**given)
    total = missing(plan)
    if dry_run:
        (_, asked) = prompt(plan, read_tasks(plan.data)[0], 0)
        out.record(
            {"missing": total, "calls": -(-total // plan.per_call), "prompt": asked["content"]}
        )
        return
    options = {"temperature": temperature, "timeout_s": timeout_s}
    with (
        _answering(plan, settings, api_base, **options) as ask,
        _bar(total) as advance,
    ):
        report = describe(plan, ask, advance=advance)
    if report.short:
        names = ", ".join(report.short[:_NAMED]) + ", ..." * (len(report.short) > _NAMED)
        out.warn(f"{len(report.short):,} tasks have fewer than {plan.per_task}: {names}")
    out.record({"tasks": report.tasks, "added": report.added, "calls": report.calls})


@contextlib.contextmanager
def _answering(
    plan: "Plan", settings: Settings, api_base: str | None, **options: Any
) -> "Iterator[Ask]":
    """The model that is asked; one of ours without an address runs in this process."""
    from training.describe_model import through_litellm  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        router = None
        if plan.model.startswith(_OURS) and api_base is None:
            with loading() as (enter, progress):
                router = bootstrap.build_router(settings, enter=enter, progress=progress)
            stack.callback(InProcessClient(router).close)
        yield through_litellm(
            plan.model, per_call=plan.per_call, api_base=api_base, router=router, **options
        )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar of the descriptions on a terminal; nothing elsewhere."""
    progress = bars()
    if progress is None:
        yield lambda _: None
        return
    with progress:
        task = progress.add_task("describing", total=total)
        yield lambda n: progress.advance(task, n)
