"""``t2l eval``: how well a hypernetwork's adapters answer, against the base model."""

import json
from pathlib import Path

import click

from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Column, Output, output_option
from t2l_router.config import Settings

_COLUMNS = (
    Column("system", "system"),
    Column("rouge_l", "rouge-l", lambda value: f"{value:.1f}", right=True),
    Column("exact_match", "exact", lambda value: f"{value:.1f}", right=True),
    Column("score", "own", lambda value: f"{value:.1f}", right=True),
    Column("n_tasks", "tasks", right=True),
)


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tasks.jsonl.",
)
@click.option("--split", default="", help="Comma-separated; by default validation, else all.")
@click.option(
    "--systems",
    default="base,definition,description,t2l,t2l-shuffled",
    show_default=True,
    help="Comma-separated; docs/training.md lists them.",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="A task.")
@click.option(
    "--descriptions", type=click.IntRange(1), default=1, show_default=True, help="A task."
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all scores."
)
@click.option(
    "--base",
    "--base-model",
    "base",
    default="",
    help="Base model; by default the one of the hypernetwork.",
)
@settings_options("hypernet", "device")
@output_option
def command(
    data: Path, split: str, file: Path | None, settings: Settings, out: Output, **options: object
) -> None:
    """
    Score a hypernetwork on the test examples of tasks.

    Scores are means over tasks, 0 to 100; answers are greedy.
    The guide is docs/training.md.

    Example: t2l eval --data my-tasks --hypernet runs/mine/checkpoint
    """
    from training.check import check  # noqa: PLC0415 - help needs none of it

    splits = check(data).splits
    chosen = split or ("validation" if "validation" in splits else ",".join(sorted(splits)))
    from t2l_router.bootstrap import torch_device  # noqa: PLC0415 - as below
    from t2l_router.models.load import no_progress_bars  # noqa: PLC0415 - as below
    from training.evaluate import evaluate, parse  # noqa: PLC0415 - imports torch

    arguments = ["--corpus", str(data), "--split", chosen, "--checkpoint", settings.hypernet]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]  # the evaluation's own names
    if settings.encoder:
        arguments += ["--encoder", settings.encoder]
    arguments += ["--device", torch_device(settings.device)]
    with no_progress_bars():
        results = evaluate(parse(arguments))
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")
    metrics = results["metrics"]
    assert isinstance(metrics, dict)
    out.table(
        [
            {"system": name, **{key: value for key, value in scores.items() if key != "per_task"}}
            for name, scores in metrics.items()
        ],
        _COLUMNS,
    )
