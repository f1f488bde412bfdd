"""SQLite gets no more memory, at one point of an engine's calls after the other.

``run`` is the long form of ``test_short_memory.py``.
"""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
from crash.failing_disk_workload import MOST_TRIES, quickly
from invariants import check

import durably
from durably.plugins import LogPersistence

T = TypeVar("T")

NAME: Final = "runs.db"
# No call of the workload needs more than what it has and this.
ENOUGH: Final = 8_000_000


class Miser:
    """Repeats each call with a little more memory, until it goes through.

    Args:
        step: how many bytes more each time, and a little more; the first time none to as many.
    """

    def __init__(self, path: Path, rng: random.Random, step: int) -> None:
        self._path = path
        self._rng = rng
        self._step = step
        self.counts: Counter[str] = Counter()
        self.found: list[str] = []

    def scrimp(self, what: str, call: Callable[[], T]) -> T:
        """The result of *call*, which got a clear error as long as there was too little."""
        more = self._rng.randrange(self._step)
        while more < ENOUGH:
            self.limit(more)
            more += self._step + more // 20
            try:
                result = call()
            except durably.DatabaseError as exc:
                self.counts[f"errors to callers of {what}"] += 1
                is_clear = isinstance(exc.__cause__, apsw.Error | MemoryError)
                if not is_clear or str(self._path) not in str(exc) or "memory" not in str(exc):
                    self.found.append(f"{what}: {exc!r} of {exc.__cause__!r} is not clear")
            else:
                return result
            finally:
                self.lift()
        raise AssertionError(f"{what} never goes through")

    def limit(self, more: int) -> None:
        """Allow SQLite so many bytes more."""
        apsw.hard_heap_limit(apsw.memory_used() + more)

    def lift(self, _: Any = None) -> None:
        """Allow SQLite as much as it wants."""
        apsw.hard_heap_limit(0)


def scrape_by(folder: Path, rng: random.Random, step: int) -> tuple[list[str], Counter[str]]:
    """Use an engine with too little memory for each call; what was wrong, and counts."""
    path = folder / NAME
    miser = Miser(path, rng, step)
    executed: Counter[tuple[str, str]] = Counter()

    def value(run_id: str, name: str) -> str:
        executed[run_id, name] += 1
        return name + "x" * 3000

    @durably.job("work")
    def work(step: durably.StepContext) -> int:
        for n in range(5):
            # Lifted by the worker:error that tells of a result which cannot be stored.
            miser.limit(rng.randrange(40_000))
            step.run(f"step-{n}", value, step.run_id, f"step-{n}")
            step.log.info("done", n=n)
        miser.lift()
        if step.attempt == 1:
            raise ValueError("as it was told")
        return 5

    try:
        with quickly():
            app = miser.scrimp(
                "opening", lambda: durably.Durably(path, jobs=[work], synchronous="normal")
            )
            app.use(LogPersistence())
            app.on("worker:error", miser.lift)
            try:
                _use(app, miser, rng)
            finally:
                miser.lift()
                app.close()
    finally:
        miser.lift()
    repeated = [place for place, times in executed.items() if times > 1]
    miser.found += [f"executed more than once: {place}" for place in repeated]
    miser.found += check(path, is_sequential=True, is_idle=True, is_finished=True)
    return miser.found, miser.counts


def _use(app: durably.Durably, miser: Miser, rng: random.Random) -> None:
    handle = app.jobs["work"]
    runs = [
        miser.scrimp("trigger", lambda: handle.trigger(labels={"a": "b"}, concurrency_key="key")),
        *miser.scrimp("batch_trigger", lambda: handle.batch_trigger([None, None])),
    ]
    if app.count_runs() != 3:
        miser.found.append(f"a trigger that was rejected is stored: {app.get_runs()}")
    for status in ("failed", "completed"):
        for _ in range(MOST_TRIES):
            if not miser.scrimp("process_one", app.process_one):
                break
        for run in runs:
            now = miser.scrimp("get_run", functools.partial(app.get_run, run))
            if now is None or now.status != status:
                miser.found.append(f"was to be {status}: {now}")
                return
            if status == "failed":
                miser.scrimp("retry", functools.partial(app.retry, run))
    gone = miser.scrimp("trigger", handle.trigger)
    miser.scrimp("cancel", lambda: app.cancel(gone))
    miser.scrimp("get_steps", lambda: app.get_steps(runs[0]))
    miser.scrimp("get_logs", lambda: app.get_logs(runs[0]))
    miser.scrimp("checkpoint_wal", lambda: app._store.database.care.wal_checkpoint(above_bytes=0))
    miser.scrimp("delete_run", lambda: app.delete_run(gone))
    purged = miser.scrimp("purge_runs", lambda: app.purge_runs(older_than=0.0, limit=2))
    if purged != 2 or app.count_runs() != 1:
        miser.found.append(f"purged {purged}, left {app.count_runs()}")


def run(deadline: float, seed: int) -> Counter[str]:
    """Starve one engine after the other until *deadline* (monotonic seconds).

    Raises:
        AssertionError: with the seed that shows it again.
    """
    totals: Counter[str] = Counter()
    rng = random.Random(seed)
    while time.monotonic() < deadline:
        with tempfile.TemporaryDirectory() as folder:
            found, counts = scrape_by(
                Path(folder), random.Random(seed), rng.choice([50, 300, 1_000])
            )
        assert not found, f"seed {seed}: {found[:5]}"
        totals += counts
        totals["workloads"] += 1
        totals["checks passed"] += 1
        seed = rng.randrange(2**32)
    return totals
