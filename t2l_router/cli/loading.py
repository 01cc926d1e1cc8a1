"""What a terminal shows while models are pulled and loaded."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn


def bars() -> Progress | None:
    """A place on stderr for the bars of what is pulled; None off a terminal."""
    if not sys.stderr.isatty():
        return None
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextmanager
def loading() -> Iterator[tuple[Callable[[str], None], Progress | None]]:
    """
    Show the current phase and the bars of what is pulled, and wipe them at the end.

    Yields:
        What `bootstrap` takes as *enter* and *progress*. Off a terminal nothing is shown.
    """
    progress = bars()
    if progress is None:
        yield (lambda _: None), None
        return
    with progress:
        phase = progress.add_task("starting", total=None)
        yield (lambda text: progress.update(phase, description=text)), progress
