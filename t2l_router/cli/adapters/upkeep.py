"""Verbs that keep the library sound and small: verify, prune."""

import dataclasses
import sys

import click

from adapters_store import AdapterStore
from adapters_store.filters import GRAMMAR, parse_age
from adapters_store.maintenance import PrunePolicy, PruneStep
from t2l_router.cli.adapters.options import (
    dry_run_option,
    library_or_server_option,
)
from t2l_router.cli.options import confirm, yes_option
from t2l_router.cli.output import UNVERIFIED, Column, Output, output_option, size


@click.command()
@output_option
@library_or_server_option
def verify(*, store: AdapterStore, out: Output) -> None:
    """
    Re-hash everything and name what belongs to no adapter.

    Adapters and the audit log are checked against their hashes.

    Ends with code 5 if something that the library promised to keep is damaged.
    """
    with click.progressbar(
        length=1, label="Hashing", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def advance(_: int, total: int) -> None:
            bar.length = total
            bar.update(1)

        report = store.maintenance.verify(on_adapter=advance)
    out.table(
        [dataclasses.asdict(problem) for problem in report.problems],
        [
            Column("subject", "subject"),
            Column("kind", "kind"),
            Column("size_bytes", "size", size, right=True),
            Column("detail", "detail", wraps=True),
        ],
    )
    out.note(
        f"Checked {report.adapters} adapters ({size(report.size_bytes)}) and "
        f"{report.audit_entries} audit entries: {len(report.problems)} problems."
    )
    if not all(problem.harmless for problem in report.problems):
        click.get_current_context().exit(UNVERIFIED)


@click.command()
@click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="EXPR",
    help=f"Delete adapters that fit: {GRAMMAR}.",
)
@click.option("--to-quota", is_flag=True, help="Delete the least recently used ones over quota.")
@click.option("--tenant", "-t", help="Of this tenant only.  [default: all]")
@click.option(
    "--purge-after", default="7d", show_default=True, help="Free adapters deleted longer ago."
)
@click.option(
    "--stray-after", default="1h", show_default=True, help="Free unfinished writes older than this."
)
@dry_run_option
@yes_option
@output_option
@library_or_server_option
def prune(
    *,
    store: AdapterStore,
    out: Output,
    filters: tuple[str, ...],
    to_quota: bool,
    tenant: str | None,
    purge_after: str,
    stray_after: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """
    Free the space of adapters that were deleted long ago.

    And of what killed processes left behind.
    With --filter or --to-quota it also deletes adapters, which undelete brings back.
    Pinned adapters and those with an alias always stay.
    """
    policy = PrunePolicy(filters, to_quota, tenant, parse_age(purge_after), parse_age(stray_after))
    steps = store.maintenance.plan(policy)
    if not dry_run and steps:
        _warn(steps, yes=yes)
        steps = store.maintenance.apply(steps)
    out.table(
        [dataclasses.asdict(step) for step in steps],
        [
            Column("subject", "subject"),
            Column("tenant", "tenant"),
            Column("action", "action"),
            Column("size_bytes", "size", size, right=True),
            Column("reason", "reason", wraps=True),
        ],
    )
    freed = sum(step.size_bytes for step in steps if step.action != "delete")
    out.note(f"{'Would free' if dry_run else 'Freed'} {size(freed)} in {len(steps)} steps.")


def _warn(steps: list[PruneStep], *, yes: bool) -> None:
    final = sum(step.action != "delete" for step in steps)
    question = f"Delete {len(steps) - final} adapters and free {final} for good?"
    confirm(question, yes=yes)


VERBS = (verify, prune)
