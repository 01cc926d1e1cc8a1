"""``t2l index``: the vector index over task descriptions."""

import dataclasses
import math
from pathlib import Path

import click

from adapters_store import AdapterStore
from adapters_store.calibrations import EVERYBODY
from adapters_store.names import DEFAULT_TENANT
from adapters_store.reembed import Migration
from t2l_router.cli.adapters.options import library_option
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Column, Output, output_option
from t2l_router.config import Settings
from t2l_router.library import calibration_of, thresholds_of
from t2l_router.policy import UNCALIBRATED, Thresholds, thresholds_for
from t2l_router.storage import load_encoder, open_library, operator

_LOGGED = 100_000  # decisions that are looked at


@click.group()
def command() -> None:
    """See and rebuild the vector index; calibrate reuse; move to another encoder."""


@command.command()
@output_option
@library_option
def status(*, store: AdapterStore, out: Output) -> None:
    """Show what the index holds of each tenant and base model."""
    out.table(
        [dataclasses.asdict(report) for report in store.indexing.status()],
        [
            Column("tenant", "tenant"),
            Column("base", "base", lambda value: str(value)[:12]),
            Column("encoder", "encoder", lambda value: str(value)[:12]),
            Column("active", "active", lambda value: "yes" if value else "no"),
            Column("embeddings", "embeddings", right=True),
            Column("searchable", "searchable", right=True),
            Column("kind", "kind"),
            Column("indexed", "indexed", right=True),
        ],
        nothing="No description has an embedding yet; t2l adapters create makes one.",
    )


@command.command(short_help="Build the index anew from the database.")
@output_option
@library_option
def rebuild(*, store: AdapterStore, out: Output) -> None:
    """Build the index anew from the database; it never holds anything else."""
    built = 0

    def tell(done: int, total: int) -> None:
        nonlocal built
        built = done
        out.note(f"Built {done} of {total} partitions.")

    store.indexing.rebuild(on_partition=tell)
    out.record({"partitions": built})


@command.group()
def migrate() -> None:
    """
    Move the library to the encoder of the settings.

    Every description is embedded anew; the old encoder serves until all are.
    """


@command.command(short_help="Measure from where on adapters may be reused.")
@click.option(
    "--corpus",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tasks.jsonl: tasks, each with many descriptions and examples.",
)
@click.option("--from-log", is_flag=True, help="Use the decision log instead of a corpus.")
@click.option("--target", default=0.02, show_default=True, type=click.FloatRange(0.001, 0.5))
@click.option("--loss-tasks", default=50, show_default=True, type=click.IntRange(20))
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw a PNG.")
@click.option("--tenant", "-t", help="Use the thresholds for this tenant only.")
@click.option("--dry-run", is_flag=True, help="Print the thresholds; don't store them.")
@settings_options("data_dir", "encoder", "hypernet")
@output_option
def calibrate(
    *,
    corpus: Path | None,
    from_log: bool,
    target: float,
    loss_tasks: int,
    plot: Path | None,
    tenant: str | None,
    dry_run: bool,
    settings: Settings,
    out: Output,
) -> None:
    """
    Measure from where on adapters may be reused, and have servers go by it; takes minutes.

    --target is the largest 95 % bound of the share of wrong reuses. --format json prints all. The
    thresholds hold for this encoder and hypernetwork; servers see them within a minute.
    """
    if (corpus is None) != from_log:
        raise click.UsageError("give one of --corpus DIR and --from-log")
    if corpus is None:
        _calibrate_from_log(settings, out, target, tenant, dry_run=dry_run)
        return
    # Lazy: only this command needs the training code.
    from training import calibrate as calibration  # noqa: PLC0415
    from training import reuse_report  # noqa: PLC0415

    outcome, document = calibration.calibrate(
        calibration.Options(
            corpus,
            checkpoint=settings.hypernet,
            encoder=settings.encoder or "",
            target=target,
            loss_tasks=loss_tasks,
        )
    )
    if plot:
        reuse_report.plot(outcome, plot, target=target)
    if not dry_run:
        source = f"t2l index calibrate --corpus {corpus.name} --target {target:g}"
        with open_library(settings, actor=operator()) as store:
            store.calibrations.set(calibration_of(outcome.thresholds, tenant=tenant, source=source))
        out.note("Stored; running servers use them within a minute.")
    if out.style == "json":
        out.json(document)
        return
    out.table(
        reuse_report.rows(outcome),
        [
            Column("aliases", "aliases", right=True),
            Column("tasks", "tasks"),
            Column("rule", "rule"),
            *(
                Column(name, name, lambda value: f"{value:.2%}", right=True)
                for name in ("reused", "wrong", "bound")
            ),
            Column("n", "n", right=True),
        ],
    )
    out.record(dataclasses.asdict(outcome.thresholds))
    if math.isinf(outcome.thresholds.score):
        out.warn(reuse_report.refusal(target))


def _calibrate_from_log(
    settings: Settings, out: Output, target: float, tenant: str | None, *, dry_run: bool
) -> None:
    # Lazy: only this command needs the training code.
    from training import calibrate_log, reuse_report  # noqa: PLC0415

    with open_library(settings, actor=operator()) as store:
        current, _ = _thresholds_in_use(settings, store, tenant or EVERYBODY)
        entries = store.decisions.newest(tenant=tenant, limit=_LOGGED)
        outcome = calibrate_log.calibrate(entries, current, target=target)
        found = outcome.thresholds
        if not math.isinf(found.score) and not dry_run:
            source = f"t2l index calibrate --from-log --target {target:g}, n {outcome.n}"
            _store_thresholds(store, out, found, tenant, source)
    out.record(dataclasses.asdict(outcome))
    if math.isinf(found.score):
        out.warn(reuse_report.refusal(target))


def _store_thresholds(
    store: AdapterStore, out: Output, found: Thresholds, tenant: str | None, source: str
) -> None:
    store.calibrations.set(calibration_of(found, tenant=tenant, source=source))
    out.note("Stored; running servers use them within a minute.")


def _thresholds_in_use(
    settings: Settings, store: AdapterStore, tenant: str
) -> tuple[Thresholds, str]:
    """The thresholds that servers go by, and where they come from."""
    # Lazy: reads a checkpoint, which takes torch.
    from t2l_router import checkpoint  # noqa: PLC0415

    encoder = checkpoint.from_pretrained(settings.hypernet).config.encoder_fingerprint
    hypernet_id = checkpoint.hypernet_id(settings.hypernet)
    stored = store.calibrations.get(encoder, hypernet_id, tenant=tenant)
    if stored is not None:
        return thresholds_of(stored), stored.source
    shipped = thresholds_for(encoder, hypernet_id)
    if shipped == UNCALIBRATED:
        return shipped, "nothing was measured: only the same text reuses"
    return shipped, "measured and shipped with t2l"


@command.command(short_help="Show the thresholds that servers go by.")
@click.option("--tenant", "-t", default=DEFAULT_TENANT, show_default=True, help="For whom.")
@settings_options("data_dir", "hypernet")
@output_option
def thresholds(*, settings: Settings, out: Output, tenant: str) -> None:
    """Show the thresholds that servers go by, and where they come from."""
    with open_library(settings, actor=operator()) as store:
        used, source = _thresholds_in_use(settings, store, tenant)
    out.record({"source": source, **dataclasses.asdict(used)})


_encoder_options = settings_options("data_dir", "encoder", "device")


@migrate.command("plan")
@_encoder_options
@output_option
def migrate_plan(*, settings: Settings, out: Output) -> None:
    """Show what a migration would do; change nothing."""
    _show_status(settings, out)


@migrate.command("status")
@_encoder_options
@output_option
def migrate_status(*, settings: Settings, out: Output) -> None:
    """Show how far the migration is."""
    _show_status(settings, out)


@migrate.command("apply")
@click.option("--forget", is_flag=True, help="Then remove the other encoders' embeddings.")
@_encoder_options
@output_option
def migrate_apply(*, settings: Settings, out: Output, forget: bool) -> None:
    """Embed what is missing, then switch; interrupted, run it again."""
    with loading() as (enter, progress):
        encoder = load_encoder(settings, enter=enter, progress=progress)
    with open_library(settings, actor=operator()) as store:
        todo = store.reembedding.status(encoder.fingerprint).missing
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            out.note(f"Embedded {done} of {todo}.")

        migration = store.reembedding.apply(encoder.fingerprint, encoder.embed, on_batch=advance)
        if forget:
            removed = store.reembedding.forget_others(encoder.fingerprint)
            out.note(f"Removed {removed} old embeddings.")
            migration = store.reembedding.status(encoder.fingerprint)
    out.record(_fields(migration))


def _show_status(settings: Settings, out: Output) -> None:
    with loading() as (enter, progress):
        encoder = load_encoder(settings, enter=enter, progress=progress)
    with open_library(settings, actor=operator()) as store:
        out.record(_fields(store.reembedding.status(encoder.fingerprint)))


def _fields(migration: Migration) -> dict[str, object]:
    return {**dataclasses.asdict(migration), "is_done": migration.is_done}
