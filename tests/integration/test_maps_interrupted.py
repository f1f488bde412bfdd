"""Ctrl-C, forks and lost databases in the middle of a map."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calls import names_of_threads
from engines import GRACE_S, engine
from interrupting import SignalAt, await_wait
from invariants import check

import durably
from durably._platform import signals
from durably.store.sqlite.sql import items as item_statements

pytestmark = pytest.mark.slow

# Each costs an engine's life.
SAMPLE = 12

WORKERS = pytest.mark.parametrize("workers", [1, 3])


@pytest.fixture(autouse=True)
def handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracing = sys.gettrace()
    yield
    sys.settrace(tracing)
    signal.signal(signal.SIGINT, before)


class Stopping(logging.Handler):
    """Notices when a map says that it is stopping: the signal has been raised by then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_said = threading.Event()
        self.on_said: Callable[[], object] = self.is_said.set

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Stopping: waiting for "):
            self.on_said()


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    log, handler = logging.getLogger("durably"), Stopping()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def maps(calls: list[int], workers: int) -> durably.Job:
    def work(item: int) -> int:
        calls.append(item)
        return item + 1

    @durably.job("maps")
    def job(step: durably.StepContext) -> int:
        step.map("m", work, (n for n in range(12)), max_workers=workers, key=lambda n: f"k{n}")
        for _ in step.imap("i", work, range(100, 106), max_workers=workers, ordered=True):
            pass
        step.parallel({"a": int, "b": int})
        return 3

    return job


@WORKERS
def test_a_map_goes_on_after_a_ctrl_c_anywhere(tmp_path: Path, seed: int, workers: int) -> None:
    """Nothing that is stored is executed again, no thread is left, and the next run ends."""
    counting = SignalAt(signal.SIGINT, (KeyboardInterrupt,), 0)
    counted = durably.Durably(tmp_path / "0.db", synchronous="normal")
    counting.during(lambda: counted.run(maps([], workers)))
    counted.close()
    sample = random.Random(f"{workers} {seed}").sample(range(1, counting.passed + 1), SAMPLE)
    for n, point in enumerate(sample, 1):
        calls: list[int] = []
        path = tmp_path / f"{n}.db"
        ctrl_c = SignalAt(signal.SIGINT, (KeyboardInterrupt,), point)
        job = maps(calls, workers)
        # Not started: nothing else continues the run.
        with contextlib.closing(durably.Durably(path, synchronous="normal")) as app:
            ctrl_c.during(lambda app=app, job=job: app.run(job, key="k"))
            assert not [name for name in names_of_threads() if "map" in name], ctrl_c.where
            stored = {
                int(str(each.key).removeprefix("k")) + (100 if name == "i" else 0)
                for run in app.get_runs()
                for name in "mi"
                for each in app.get_items(run, name)
            }
            assert stored <= set(calls), ctrl_c.where
            calls.clear()
            run = app.run(job, key="k")
            assert run.output == 3, ctrl_c.where
            assert stored.isdisjoint(calls), ctrl_c.where
            assert len(app.get_items(run, "m")) == 12, ctrl_c.where
            assert len(app.get_items(run, "i")) == 6, ctrl_c.where
        assert check(path, is_idle=True, is_finished=True) == [], ctrl_c.where


def test_threads_end_their_items_after_a_ctrl_c(tmp_path: Path, stopping: threading.Event) -> None:
    """No further item begins; those in progress end and are stored."""
    inside = threading.Barrier(3)
    calls: list[int] = []

    def work(item: int) -> int:
        calls.append(item)
        if item < 3:
            if inside.wait(GRACE_S) == 0:
                os.kill(os.getpid(), signal.SIGINT)
            assert stopping.is_said.wait(GRACE_S)
        return item

    def job(step: durably.StepContext) -> int:
        return len(step.map("m", work, range(100), max_workers=3))

    with engine(tmp_path, job) as app:
        with pytest.raises(KeyboardInterrupt) as stopped:
            app.run("job", key="k")
        (run,) = app.get_runs()
        assert run.status == "pending"
        (said,) = stopped.value.__notes__
        assert said.startswith("stopped in step 'm'; 3 of its items are kept")
        assert [each.key for each in app.get_items(run, "m")] == [0, 1, 2]
        assert sorted(calls) == [0, 1, 2]
        assert app.get_steps(run) == []
        assert app.run("job", key="k").output == 100
        assert sorted(calls) == list(range(100))


def test_a_ctrl_c_whose_handler_outlasts_a_wait_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may on a busy machine: ``SimpleQueue.get`` would wait for ever, before Python 3.13."""

    def now_s() -> float:
        threading.Event().wait(
            3 * signals.SIGNAL_POLL_S
        )  # in the handler, in the middle of the wait
        return time.monotonic()

    stopped = []

    def job(step: durably.StepContext) -> int:
        def work(item: int) -> int:
            if item == 1:
                await_wait()
                os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + GRACE_S
            try:
                while time.monotonic() < deadline:
                    step.check()
                    threading.Event().wait(0.01)
            except durably.StopRun:
                stopped.append(item)
                raise
            return item

        return len(step.map("m", work, range(2), max_workers=2))

    monkeypatch.setattr(signals, "monotonic", now_s)
    with engine(tmp_path, job) as app, pytest.raises(KeyboardInterrupt):
        app.run("job")
    assert sorted(stopped) == [0, 1]


@pytest.mark.parametrize("where", ["wait", "log"])
@pytest.mark.parametrize("stored", [0, 2])
def test_a_second_ctrl_c_does_not_wait_for_the_threads(
    tmp_path: Path, stopping: Stopping, where: str, stored: int
) -> None:
    """The call returns, what they are in the middle of is executed again, and they end."""
    inside, go = threading.Barrier(3), threading.Event()
    ended = []

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt() -> None:
        inside.wait(GRACE_S)
        press()
        if where == "wait":
            assert stopping.is_said.wait(GRACE_S)
            press()

    def job(step: durably.StepContext) -> int:
        def work(item: int) -> int:
            if item >= stored and not go.is_set():
                inside.wait(GRACE_S)
                assert go.wait(GRACE_S)
                ended.append(item)
                step.check()
            return item

        return len(step.map("m", work, range(stored + 2), max_workers=2))

    if where == "log":
        stopping.on_said = press
    with engine(tmp_path, job) as app:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            app.run("job", key="k")
        assert ended == []
        thread.join()
        go.set()
        assert app.run("job", key="k").output == stored + 2
        assert len(app.get_items(app.get_runs()[0], "m")) == stored + 2
        deadline = time.monotonic() + GRACE_S
        while [name for name in names_of_threads() if "map" in name]:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # polled with a deadline


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@WORKERS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_an_item_forks_stores_nothing(tmp_path: Path, workers: int) -> None:
    """It is a second copy of the thread; the parent goes on."""

    def work(item: int) -> int:
        if item == 2:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
        return item

    def job(step: durably.StepContext) -> int:
        try:
            return len(step.map("m", work, range(8), max_workers=workers))
        except durably.ForkedError:
            os._exit(0)  # the child, of the calling thread

    with engine(tmp_path, job) as app:
        run = app.run("job")
        assert run.output == 8
        assert [each.attempts for each in app.get_items(run, "m")] == [1] * 8


@WORKERS
def test_items_wait_for_a_database_that_cannot_be_written(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are kept in memory until they can be stored, and no more are made than may be."""
    failures = []
    most = []
    calls = []

    save = item_statements.save

    def failing(*args: object) -> bool:
        if len(failures) < 2:
            failures.append(args)
            most.append(len(calls))
            raise durably.DatabaseError("full", is_transient=True)
        return save(*args)  # type: ignore[arg-type]  # as it is given

    def job(step: durably.StepContext) -> int:
        return len(step.map("m", calls.append, range(40), max_workers=workers, max_uncommitted=5))

    with engine(tmp_path, job) as app:
        checkpoints = app._store.checkpoints
        monkeypatch.setattr(
            checkpoints,
            "save_items",
            lambda *args: checkpoints.database.write(failing, *args),
            raising=False,
        )
        run = app.run("job")
        assert run.output == 40
        assert len(failures) == 2
        assert max(most) <= 5 + workers
        assert len(app.get_items(run, "m")) == 40


@WORKERS
def test_items_that_cannot_be_stored_fail_the_run(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the error of the database, if it will not pass; no thread is left."""

    def failing(*_: object) -> bool:
        raise durably.DatabaseError("corrupt")

    def job(step: durably.StepContext) -> int:
        return len(step.map("m", lambda n: n, range(1000), max_workers=workers))

    with engine(tmp_path, job) as app:
        monkeypatch.setattr(app._store.checkpoints, "save_items", failing, raising=False)
        with pytest.raises(durably.RunFailedError, match="corrupt"):
            app.run("job")
        assert not [name for name in names_of_threads() if "map" in name]
