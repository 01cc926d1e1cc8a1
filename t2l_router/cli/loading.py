"""What a terminal shows while models are pulled and loaded."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn


@contextmanager
def loading() -> Iterator[tuple[Callable[[str], None], Progress | None]]:
    """
    Show the current phase and the bars of what is pulled on stderr, and wipe them at the end.

    Yields:
        What `bootstrap` takes as *enter* and *progress*. Off a terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield (lambda _: None), None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        phase = progress.add_task("starting", total=None)
        yield (lambda text: progress.update(phase, description=text)), progress
