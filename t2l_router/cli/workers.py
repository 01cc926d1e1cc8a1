"""Several processes that serve from one port, and the one that looks after them."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import click
from prometheus_client.multiprocess import mark_process_dead

from t2l_router import logs, storage
from t2l_router.cli import process
from t2l_router.cli.output import INTERRUPTED, exit_code
from t2l_router.cli.process import Doors
from t2l_router.config import Settings
from t2l_router.environment import share_metrics

logger = logging.getLogger(__name__)
_AGAIN_AFTER_S = 1.0


class Workers:
    """
    Starts processes that serve, starts those anew that die, and ends them all.

    All take connections from the same sockets, so that none is lost when one of them dies.

    Args:
        settings: What each serves.
        flags: From the command line.
        doors: Where connections come in.
    """

    def __init__(self, settings: Settings, flags: dict[str, Any], doors: Doors) -> None:
        self._settings = settings
        self._flags = flags
        self._doors = doors
        self._running: dict[int, SpawnProcess] = {}
        self._started_at: dict[int, float] = {}
        self._stopped_by: int | None = None
        self._failed: int | None = None

    def run(self) -> None:
        """Serve until a signal, or a worker that can't load, ends it; exits with its code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        with tempfile.TemporaryDirectory(prefix="t2l-metrics-") as directory:
            share_metrics(Path(directory))
            for slot in range(self._settings.workers):
                self._start(slot, Path(directory))
            while self._running:
                wait([worker.sentinel for worker in self._running.values()], timeout=1)
                for slot, worker in list(self._running.items()):
                    if worker.exitcode is not None:
                        self._ended(slot, worker, Path(directory))
        if self._failed is not None:
            sys.exit(self._failed)
        if self._stopped_by == signal.SIGINT:
            sys.exit(INTERRUPTED)
        # As a process alone does: whoever waits for it sees which signal ended it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    def _start(self, slot: int, directory: Path) -> None:
        worker = multiprocessing.get_context("spawn").Process(
            target=_work,
            args=(self._settings, self._flags, self._doors, directory),
            name=f"t2l-worker-{slot}",
        )
        worker.start()
        self._running[slot] = worker
        self._started_at[slot] = time.monotonic()

    def _ended(self, slot: int, worker: SpawnProcess, directory: Path) -> None:
        del self._running[slot]
        code = worker.exitcode or 0
        assert worker.pid is not None, "it was started"
        mark_process_dead(worker.pid, path=str(directory))
        worker.close()
        if self._is_stopping:
            return
        if code > 0:  # it says why; the others would end the same way
            self._failed = code
            self._tell(signal.SIGTERM)
            return
        logger.error("worker %d ended by signal %d; another takes its place", slot, -code)
        time.sleep(max(0.0, self._started_at[slot] + _AGAIN_AFTER_S - time.monotonic()))
        if not self._is_stopping:
            self._start(slot, directory)

    @property
    def _is_stopping(self) -> bool:
        return self._stopped_by is not None or self._failed is not None

    def _stop(self, number: int, _: object) -> None:
        self._stopped_by = number
        self._tell(number)

    def _tell(self, number: int) -> None:
        for worker in list(self._running.values()):
            if worker.is_alive() and worker.pid is not None:
                os.kill(worker.pid, number)


def _work(settings: Settings, flags: dict[str, Any], doors: Doors, metrics_dir: Path) -> None:
    """Serve in this process; an expected error is one line and its exit code."""
    logs.set_up(settings.log_level, settings.log_format)
    threading.Thread(target=_outlive, name="t2l-parent", daemon=True).start()
    try:
        with storage.open_library(settings, actor="server") as store:
            process.serve(settings, flags, doors, store, metrics_dir=metrics_dir)
    except KeyboardInterrupt:
        sys.exit(0)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(code)


def _outlive() -> None:
    """End this process if its parent is killed: nobody else would look after it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
