"""The verb dedupe: adapters that do the same, and merging them."""

import sys

import click

from adapters_store import AdapterStore
from adapters_store.dedupe import Kind
from t2l_router.cli.adapters.options import (
    library_or_server_option,
    tenant_option,
)
from t2l_router.cli.options import confirm, yes_option
from t2l_router.cli.output import Column, Output, output_option

_THRESHOLDS: dict[Kind, float] = {"delta": 0.98, "text": 0.95}


@click.command()
@click.option(
    "--by",
    type=click.Choice(["delta", "text"]),
    default="delta",
    show_default=True,
    help="Compare what the weights change, or the descriptions.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Smallest cosine of duplicates.  [default: delta 0.98, text 0.95]",
)
@click.option("--apply", "act", is_flag=True, help="Merge them; otherwise only show them.")
@click.option("--dry-run", is_flag=True, help="Only show them, even with --apply.")
@yes_option
@tenant_option
@output_option
@library_or_server_option
def dedupe(
    *,
    store: AdapterStore,
    out: Output,
    by: Kind,
    threshold: float | None,
    act: bool,
    dry_run: bool,
    yes: bool,
    tenant: str,
) -> None:
    """
    Find adapters that do the same, and merge them.

    The kept one (pinned, else most used, else oldest) takes over descriptions and aliases.
    The others are deleted; undelete brings them back.
    """
    with click.progressbar(
        length=1, label="Comparing", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def advance(_: int, total: int) -> None:
            bar.length = total
            bar.update(1)

        clusters = store.dedupe.clusters(
            by, tenant=tenant, threshold=threshold or _THRESHOLDS[by], on_adapter=advance
        )
    out.table(
        [
            {
                "merge": other.id,
                "into": cluster.keep.id,
                "likeness": cluster.likeness,
                "description": other.description,
                "into_description": cluster.keep.description,
            }
            for cluster in clusters
            for other in cluster.merge
        ],
        [
            Column("merge", "merge"),
            Column("into", "into"),
            Column("likeness", "likeness", lambda value: f"{value:.3f}", right=True),
        ],
    )
    count = sum(len(cluster.merge) for cluster in clusters)
    if not count:
        out.note("No adapters do the same.")
    elif act and not dry_run:
        confirm(f"Merge {count} adapters into {len(clusters)}?", yes=yes)
        for cluster in clusters:
            store.dedupe.merge(cluster)
        out.note(f"Merged {count} adapters into {len(clusters)}.")
    else:
        out.note(f"{count} adapters could be merged into {len(clusters)}; --apply does it.")


VERBS = (dedupe,)
