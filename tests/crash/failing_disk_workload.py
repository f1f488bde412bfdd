"""A disk that fails at one operation after the other of a workload, once, often, or until fixed.

Each action is repeated, with the same engine, until it goes through. ``run`` is the long form of
``test_failing_disk.py``.
"""

from __future__ import annotations

import functools
import logging
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest import mock

import apsw
import attrs
from faultydisk import CODES, FULL_CODES, READING, WRITING, FaultyDisk
from invariants import check

import durably
import durably.execution.storing
import durably.store.sqlite.sql.steps
from durably.plugins import LogPersistence
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

T = TypeVar("T")

NAME: Final = "runs.db"
GRACE_S: Final = 20.0  # only guards against hanging
MOST_TRIES: Final = 60


@attrs.frozen
class Fault:
    """Which operations fail, from the first on, how many, and how.

    Args:
        times: how many in a row, or 0 for all until three errors were reported.
    """

    kinds: frozenset[str]
    codes: dict[str, int]
    first: int
    times: int

    def __str__(self) -> str:
        often = f"{self.times} times" if self.times else "until mended"
        how = "full" if self.codes is FULL_CODES else "I/O error"
        return f"{how} at {'/'.join(sorted(self.kinds))} {self.first}, {often}"


class Session:
    """One engine, or several in turn, on a disk that fails; what was reported to them."""

    def __init__(self, folder: Path, disk: FaultyDisk, fault: Fault) -> None:
        self._path = folder / NAME
        self._disk = disk
        self._fault = fault
        self.found: list[str] = []
        self.counts: Counter[str] = Counter()
        self._told = 0
        self._lock = threading.Lock()  # guards what the threads of the engine write
        self.executed: Counter[tuple[str, str]] = Counter()
        self.checkpointed: dict[tuple[str, str], str] = {}
        self.acknowledged: dict[str, str] = {}  # by run id, the status that was told
        self.deleted: set[str] = set()

    # -- jobs --------------------------------------------------------------------------------

    def jobs(self) -> list[durably.Job[Any, Any]]:
        def value(run_id: str, name: str, size: int) -> str:
            with self._lock:
                if (run_id, name) in self.checkpointed:
                    self.found.append(f"{name} of {run_id} executed after its checkpoint")
                self.executed[run_id, name] += 1
                return f"{name} {self.executed[run_id, name]} " + "x" * size

        @durably.job("work")
        def work(step: durably.StepContext, payload: dict[str, Any]) -> list[str]:
            values = []
            for n in range(payload.get("steps", 3)):
                name = f"step-{n}"
                values.append(step.run(name, value, step.run_id, name, payload.get("size", 10)))
                with self._lock:
                    self.checkpointed[step.run_id, name] = values[-1]
                step.progress(n + 1)
                step.log.info("done", n=n)
            if payload.get("fails") and step.attempt == 1:
                raise ValueError("as it was told")
            return values

        return [work]

    # -- trying ------------------------------------------------------------------------------

    def patiently(self, what: str, action: Callable[[], T]) -> T:
        """Repeat *action* until it goes through; every error must be a clear one."""
        for _ in range(MOST_TRIES):
            try:
                return action()
            except durably.DatabaseError as exc:
                self._tell(what, exc)
        raise AssertionError(f"{what} never goes through, {self._disk.hit}")

    def _tell(self, what: str, exc: durably.DatabaseError) -> None:
        self.counts[f"errors to callers of {what}"] += 1
        if not isinstance(exc.__cause__, apsw.Error) or str(self._path) not in str(exc):
            self.found.append(f"{what}: {exc!r} of {exc.__cause__!r} does not name the cause")
        if "sync" in str(self._disk.hit) and not exc.is_transient:
            self.found.append(f"{what}: {exc!r} is not taken for something that passes")
        self._count_error()

    def _count_error(self) -> None:
        with self._lock:
            self._told += 1
            if not self._fault.times and self._told >= 3:
                self._disk.repair()

    def _worker_error(self, event: Any) -> None:
        self.counts["told as worker:error"] += 1
        if not event.error.type.startswith("durably."):
            self.found.append(f"{event}")
        self._count_error()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Nothing fails and nothing is counted while the test itself reads."""
        self._disk.pause(is_paused=True)
        try:
            yield
        finally:
            self._disk.pause(is_paused=False)

    def open(self, **options: Any) -> durably.Durably:
        database = functools.partial(Database, vfs=self._disk.name)
        with mock.patch.object(opening, "Database", database):
            app = self.patiently(
                "opening",
                lambda: durably.Durably(
                    self._path, jobs=self.jobs(), poll_interval=0.05, **options
                ),
            )
        app._store.database._writer._db.wal_autocheckpoint(12)
        app.on("worker:error", self._worker_error)
        app.on("run:complete", self._ended)
        app.on("run:fail", self._ended)
        app.on("run:delete", lambda event: self.deleted.add(event.run_id))
        app.use(LogPersistence())
        return app

    def _ended(self, event: Any) -> None:
        with self._lock:
            self.acknowledged[event.run_id] = event.type.removeprefix("run:").rstrip("e") + "ed"

    def trigger(self, app: durably.Durably, payload: Any = None, **options: Any) -> Any:
        """Trigger until it is acknowledged; what was rejected must not be there."""
        handle = app.jobs["work"]
        for _ in range(MOST_TRIES):
            with self.looking():
                before = app.count_runs()
            try:
                run = handle.trigger(payload or {}, **options)
            except durably.DatabaseError as exc:
                self._tell("trigger", exc)
                with self.looking():
                    if app.count_runs() != before:
                        self.found.append(f"a trigger that was rejected is stored: {exc}")
            else:
                self.acknowledged.setdefault(run.id, "triggered")
                return run
        raise AssertionError(f"a trigger never goes through, {self._disk.hit}")

    def batch(self, app: durably.Durably) -> list[Any]:
        runs = self.patiently("batch_trigger", lambda: app.jobs["work"].batch_trigger([{}, {}]))
        for run in runs:
            self.acknowledged.setdefault(run.id, "triggered")
        return runs

    # -- workloads ---------------------------------------------------------------------------

    def in_this_thread(self) -> None:
        """Every public verb that writes, one after the other, and the reads."""
        app = self.open(synchronous="full")
        try:
            self._use(app)
        finally:
            self._close(app)
        # Once more, on a file that is there: other operations when opening, and a recovery.
        app = self.open(synchronous="normal")
        try:
            again = self.trigger(app, {"steps": 2})
            self._execute(app)
            self._expect(app, again, "completed")
        finally:
            self._close(app)

    def _use(self, app: durably.Durably) -> None:
        # Large enough that deleting it leaves pages to give back.
        first = self.trigger(
            app, {"steps": 3, "size": 9000}, idempotency_key="one", labels={"a": "b"}
        )
        self.batch(app)
        keyed = self.trigger(app, {"size": 9000}, concurrency_key="key")
        self._execute(app)
        self._expect(app, first, "completed")
        self._expect(app, keyed, "completed")
        failing = self.trigger(app, {"fails": True, "steps": 6})
        self._execute(app)
        self._expect(app, failing, "failed")
        self.patiently("retry", lambda: app.retry(failing))
        self._execute(app)
        self._expect(app, failing, "completed")
        gone = self.trigger(app)
        self.patiently("cancel", lambda: app.cancel(gone))
        self.acknowledged[gone.id] = "cancelled"
        self._expect(app, gone, "cancelled")
        self.patiently(
            "checkpoint_wal", lambda: app._store.database.care.wal_checkpoint(above_bytes=0)
        )
        self.patiently("delete_run", lambda: app.delete_run(gone))
        runs = self.patiently("get_runs", app.get_runs)
        for run in runs:
            self.patiently("get_steps", functools.partial(app.get_steps, run))
            self.patiently("get_logs", functools.partial(app.get_logs, run))
        with self.looking():
            before = app.count_runs()
        purged = self.patiently("purge_runs", lambda: app.purge_runs(older_than=0.0, limit=1))
        with self.looking():
            if app.count_runs() != before - 1 or purged != 1:
                self.found.append(f"purged {purged} of {before}, {app.count_runs()} are left")

    def _execute(self, app: durably.Durably) -> None:
        for _ in range(MOST_TRIES):
            if not self.patiently("process_one", app.process_one):
                return
        raise AssertionError("the runs never end")

    def _expect(self, app: durably.Durably, run: Any, status: str) -> None:
        with self.looking():
            now = app.get_run(run)
        if now is None or now.status != status:
            self.found.append(f"{run.id} was to be {status}: {now}")

    def on_threads(self) -> None:
        """A started engine executes while this thread triggers, waits and cancels."""
        app = self.open(synchronous="full", max_workers=2, heartbeat_interval=0.05)
        try:
            self.patiently("start", app.start)
            runs = [self.trigger(app, {"size": 2000}) for _ in range(3)]
            runs += self.batch(app)
            runs.append(self.trigger(app, concurrency_key="key"))
            for run in runs:
                self.patiently("wait", functools.partial(app.wait, run, timeout=GRACE_S))
                self._expect(app, run, "completed")
            failing = self.trigger(app, {"fails": True, "steps": 6})
            try:
                self.patiently("wait", lambda: app.wait(failing, timeout=GRACE_S))
                self.found.append("a run that fails was said to be completed")
            except durably.RunFailedError:
                self.patiently("retry", lambda: app.retry(failing))
            self.patiently("wait", lambda: app.wait(failing, timeout=GRACE_S))
            self.patiently("purge_runs", lambda: app.purge_runs(older_than=0.0, limit=2))
        finally:
            self._close(app)

    def _close(self, app: durably.Durably) -> None:
        self.patiently("close", app.close)

    # -- afterwards --------------------------------------------------------------------------

    def look_back(self) -> None:
        """On a disk that works: nothing that was acknowledged is lost, and nothing is stuck."""
        app = durably.Durably(self._path, jobs=self.jobs(), synchronous="normal")
        try:
            app.run_until_idle(raise_failed=False)
            for run in app.get_runs():
                told = self.acknowledged.pop(run.id, None)
                if told is None:
                    self.found.append(f"nobody was told of {run}")
                if run.status not in ("completed", "cancelled"):
                    self.found.append(f"{run.id} was {told} and is {run.status}: {run.error}")
                for step in app.get_steps(run):
                    known = self.checkpointed.get((run.id, step.name))
                    if known is not None and known != step.output:
                        self.found.append(f"{step.name} of {run.id} has another result")
        finally:
            app.close()
        # Of an owner whose row was found removed, though it was told that this had failed; an
        # engine sweeps it when it is a minute old.
        for left in self._path.parent.glob(f"{NAME}.owner-*"):
            left.unlink()
        lost = self.acknowledged.keys() - self.deleted
        self.found += [f"{run_id} was acknowledged and is lost" for run_id in lost]
        self.found += check(self._path, is_sequential=True, is_idle=True, is_finished=True)


WORKLOADS: Final[dict[str, Callable[[Session], None]]] = {
    "in this thread": Session.in_this_thread,
    "on threads": Session.on_threads,
}


@contextmanager
def quickly() -> Iterator[None]:
    """What waits for room checks again at once; few checkpoints are read at a time.

    And what durably logs of thousands of errors that it was given is not printed.
    """
    handler = logging.NullHandler()
    logger = logging.getLogger("durably")
    with ExitStack() as stack:
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
        stack.enter_context(mock.patch.object(durably.store.sqlite.sql.steps, "WINDOW_STEPS", 2))
        for constant in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
            stack.enter_context(mock.patch.object(durably.execution.storing, constant, 0.001))
        yield


def attempt(folder: Path, workload: str, fault: Fault) -> tuple[list[str], Counter[str], int]:
    """Run a workload on a disk with that fault: what was wrong, counts, operations of that kind."""
    live = Path(tempfile.mkdtemp(dir=folder))
    unraisable: list[Any] = []
    with (
        FaultyDisk() as disk,
        quickly(),
        mock.patch.object(sys, "unraisablehook", unraisable.append),
    ):
        session = Session(live, disk, fault)
        disk.fail(fault.kinds, fault.first, fault.times or 1 << 30, fault.codes)
        try:
            WORKLOADS[workload](session)
        except Exception as exc:
            raise AssertionError(f"{workload}, {fault}, {disk.hit[:3]}: {exc!r}") from exc
        operations = disk.count
        disk.repair()
        session.look_back()
    shutil.rmtree(live)
    session.counts["operations failed"] += len(disk.hit)
    found = [f"{workload}, {fault}, {disk.hit[:3]}: {each}" for each in session.found]
    found += [f"{workload}, {fault}: {each}" for each in unraisable]
    return found, session.counts, operations


def operations_of(folder: Path, workload: str, kinds: frozenset[str]) -> int:
    """How many operations of these kinds there are where nothing fails."""
    found, _, count = attempt(folder, workload, Fault(kinds, CODES, 0, 1))
    assert not found, found
    return count


def run(deadline: float, seed: int) -> Counter[str]:
    """Fail one operation after the other, in random order, until *deadline* (monotonic seconds).

    Raises:
        AssertionError: with the fault that shows it again.
    """
    totals: Counter[str] = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = {
            (workload, kinds): operations_of(folder, workload, kinds)
            for workload in WORKLOADS
            for kinds in (WRITING, READING)
        }
        while time.monotonic() < deadline:
            workload = rng.choice(list(WORKLOADS))
            kinds = rng.choice([WRITING, WRITING, READING])
            fault = Fault(
                kinds,
                rng.choice([CODES, FULL_CODES]),
                rng.randrange(numbers[workload, kinds]) + 1,
                rng.choice([1, 1, 6, 0]),
            )
            found, counts, _ = attempt(folder, workload, fault)
            assert not found, f"seed {seed}: {found[:5]}"
            totals += counts
            totals["workloads"] += 1
            totals["checks passed"] += 1
    return totals
