"""A signal handler that raises, at any instruction of any call: that call alone is ended by it."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import apsw
import pytest
from calls import HANG_S, names_of_threads
from interrupting import SignalAt
from invariants import check

import durably
from durably import Durably, RunStatus, StepContext
from durably._platform.clock import Clock
from durably.store.sqlite.connection.readers import limited_wait
from durably.worker.claimer import Claimer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGALRM")

# Each costs an engine's life; another seed chooses other points.
SAMPLE = 3


class TooSlowError(TimeoutError):
    """What the handler raises: an OSError, as that of many time limits is."""


def alarm_at(*points: int) -> SignalAt:
    return SignalAt(signal.SIGALRM, (TooSlowError, SystemExit), *points)


@durably.job
def work(step: StepContext) -> int:
    return step.run("one", int)


def trigger(app: Durably) -> None:
    app.jobs["work"].trigger()


def trigger_and_wait(app: Durably) -> None:
    app.jobs["work"].trigger_and_wait(timeout=HANG_S)


def trigger_several(app: Durably) -> None:
    list(app.as_completed(app.jobs["work"].batch_trigger([None, None]), timeout=HANG_S))


def trigger_with_a_listener(app: Durably) -> None:
    heard: list[Any] = []
    app.on("run:trigger", heard.append)
    app.jobs["work"].trigger()


def read(app: Durably) -> None:
    runs = app.get_runs(limit=3)
    app.count_runs()
    app.get_steps(runs[0].id)


def retry(app: Durably) -> None:
    run = app.jobs["work"].trigger(concurrency_key="k", labels={"a": "b"})
    try:
        app.cancel(run)
        app.retry(run)
    except durably.ConflictError:
        return  # it was faster


def run_until_idle(app: Durably) -> None:
    app.jobs["work"].trigger()
    app.run_until_idle()


def process_one(app: Durably) -> None:
    app.process_one()


def run_here(app: Durably) -> None:
    app.run(work, key=f"key {app.count_runs()}")
    app.run(work)


def stop(app: Durably) -> None:
    app.stop()


def stop_interrupting(app: Durably) -> None:
    app.jobs["work"].trigger()
    app.stop(interrupt=True)


def start(app: Durably) -> None:
    app.stop()
    app.start()


def drain(app: Durably) -> None:
    app.stop()
    app.jobs["work"].trigger()
    app.run_until_idle()


def close(app: Durably) -> None:
    app.close()


def with_block(app: Durably) -> None:
    with app:
        app.jobs["work"].trigger()


def open_and_close(app: Durably) -> None:
    with Durably(app._store.path, jobs=[work]):
        pass


SCENES = [
    trigger,
    trigger_and_wait,
    trigger_several,
    trigger_with_a_listener,
    read,
    retry,
    run_until_idle,
    process_one,
    run_here,
    stop,
    stop_interrupting,
    start,
    drain,
    close,
    with_block,
    open_and_close,
]
CLOSING = (close, with_block)


def too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def leave(*_: object) -> None:
    sys.exit(0)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, too_slow), signal.signal(signal.SIGTERM, leave)
    tracing = sys.gettrace()
    yield
    sys.settrace(tracing)
    signal.signal(signal.SIGALRM, before[0])
    signal.signal(signal.SIGTERM, before[1])


def opened(path: Path) -> Durably:
    # With one worker a slot that is lost is missed.
    return Durably(path, jobs=[work], max_workers=1, synchronous="normal")


def interrupted(path: Path, scene: Callable[[Durably], None], *points: int) -> SignalAt:
    """Execute a scene with alarms at points of it; then the engine works on, and closes."""
    app = opened(path)
    app.jobs["work"].trigger()
    if scene is process_one:
        assert app.process_one()
        app.jobs["work"].trigger()
    else:
        app.start()
        app.jobs["work"].trigger_and_wait(timeout=HANG_S)
    alarm = alarm_at(*points)
    alarm.during(lambda: scene(app))
    arrives(alarm)
    try:
        app.start()
    except durably.EngineClosedError:
        assert scene in CLOSING, alarm.where
    else:
        works_on(app, alarm)
    app.close()
    if scene is open_and_close:
        gc.collect()  # of the engine that nobody has got
    assert names_of_threads() == [], alarm.where
    return alarm


def is_in_order(path: Path, alarms: list[SignalAt]) -> None:
    """Check that the next engine finishes everything that the interrupted ones have left."""
    with opened(path):
        pass
    assert check(path, is_idle=True, is_finished=True) == [], [alarm.where for alarm in alarms]


def arrives(alarm: SignalAt) -> None:
    """Raise Ctrl-C's signal, which nothing holds back any more."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail(f"Ctrl-C is held back after {alarm.where}")


def works_on(app: Durably, alarm: SignalAt) -> None:
    run = app.jobs["work"].trigger_and_wait(timeout=HANG_S)
    assert run.output == 0, alarm.where
    # Another thread can do all of it too: no lock is left taken.
    with ThreadPoolExecutor(1) as other:
        assert other.submit(app.get_run, run.id).result(HANG_S) == run, alarm.where
        other.submit(app.jobs["work"].trigger_and_wait, timeout=HANG_S).result(HANG_S)
        other.submit(app.stop, timeout=HANG_S).result(HANG_S)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_engine_can_be_used_on(tmp_path: Path, seed: int, scene: Callable[[Durably], None]) -> None:
    """Whatever a call was about to do: nothing else of the engine is affected by its end."""
    path = tmp_path / "x.db"
    passed = interrupted(path, scene, 0).passed
    points = random.Random(f"{scene.__name__} {seed}").sample(range(1, passed + 1), SAMPLE)
    is_in_order(path, [interrupted(path, scene, point) for point in points])


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_engine_can_be_used_on_after_two(
    tmp_path: Path, seed: int, scene: Callable[[Durably], None]
) -> None:
    """A second signal, in what the first one has caused, does no harm either."""
    path = tmp_path / "x.db"
    passed = interrupted(path, scene, 0).passed
    choice = random.Random(f"{scene.__name__} twice {seed}")
    points = [(choice.randint(1, passed), choice.randint(1, 60)) for _ in range(1, SAMPLE)]
    is_in_order(path, [interrupted(path, scene, one, one + more) for one, more in points])


def test_an_error_of_durablys_that_a_handler_raises_is_not_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler may raise any class: the call is abandoned, and its run is executed anyway."""

    def handler(*_: object) -> None:
        raise durably.DatabaseError("of the handler")

    start, reserve = Claimer._start, Claimer._reserve

    def reserve_a_free_one(claimer: Claimer, limit: Any) -> Any:
        # Another thread may be about to free it. Without one the trigger starts no run.
        while (claim := reserve(claimer, limit)) is None and limit == 1:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return claim

    def interrupted_start(claimer: Claimer, run: Any) -> bool:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGALRM)
        return start(claimer, run)

    app = opened(tmp_path / "x.db").start()
    try:
        app.jobs["work"].trigger_and_wait(timeout=HANG_S)
        signal.signal(signal.SIGALRM, handler)
        deadline = time.monotonic() + HANG_S
        monkeypatch.setattr(Claimer, "_reserve", reserve_a_free_one)
        monkeypatch.setattr(Claimer, "_start", interrupted_start)
        with pytest.raises(durably.DatabaseError, match="of the handler"):
            app.jobs["work"].trigger()
        app.jobs["work"].trigger_and_wait(timeout=HANG_S)
        app.stop(timeout=HANG_S)
        assert app.count_runs(status="completed") == 3
    finally:
        app.close()


def test_one_alarm_ends_a_stop_that_hangs(tmp_path: Path) -> None:
    """A listener that one of the engine's threads calls may block; the engine can be used on."""
    go, inside, left = threading.Event(), threading.Event(), threading.Event()

    def block(_: object) -> None:
        inside.set()
        go.wait(HANG_S)
        left.set()

    app = opened(tmp_path / "x.db").start()
    off = app.on("run:progress", block)

    @durably.job
    def telling(step: StepContext) -> None:
        step.progress(1)
        assert inside.wait(HANG_S)

    run = app.register(telling).trigger()
    assert inside.wait(HANG_S)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(TooSlowError):
        app.stop()
    assert not left.is_set()
    go.set()
    off()
    app.start()
    app.wait(run, timeout=HANG_S)
    assert app.jobs["work"].trigger_and_wait(timeout=HANG_S).output == 0
    app.close()


@pytest.mark.parametrize("call", ["stat", "a read"])
@pytest.mark.parametrize("raised", [TooSlowError, InterruptedError, ValueError, SystemExit])
def test_healthy_file_is_not_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    raised: type[BaseException],
) -> None:
    """An exception of a signal that lands in a system call is that call's for nobody."""

    def handler(*_: object) -> None:
        raise raised

    signal.signal(signal.SIGALRM, handler)
    app = opened(tmp_path / "x.db").start()
    run = app.jobs["work"].trigger_and_wait()
    with monkeypatch.context() as patch:
        module, name = (os, "stat") if call == "stat" else (app._store, "find_run")
        real = getattr(module, name)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            signal.raise_signal(signal.SIGALRM)
            return result

        patch.setattr(module, name, interrupted)
        with pytest.raises(raised):
            app.get_run(run.id)
    assert app.get_run(run.id) == run
    app.close()


@pytest.mark.parametrize("number", ["EIO", "EACCES", "ESTALE", "ETIMEDOUT", "EINTR"])
def test_file_that_the_system_cannot_report_on_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """Only a file that is not there, or is another one, is gone: seen twice."""
    import errno  # noqa: PLC0415 - for its names

    app = opened(tmp_path / "x.db").start()
    run = app.jobs["work"].trigger_and_wait()
    code = getattr(errno, number)

    def fail(path: str, **_: Any) -> Any:
        raise OSError(code, os.strerror(code), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        assert app.get_run(run.id) == run
    with monkeypatch.context() as patch:
        real, calls = os.stat, []

        def fail_once(path: Any, **kwargs: Any) -> Any:
            calls.append(path)
            if len(calls) == 1:
                raise FileNotFoundError
            return real(path, **kwargs)

        patch.setattr(os, "stat", fail_once)
        assert app.get_run(run.id) == run
    app.close()


class TestProcessOne:
    """The thread is the caller's, and so is the signal."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
    @pytest.mark.parametrize("where", ["in a step", "between steps", "in a step with retries"])
    def test_run_goes_back(self, tmp_path: Path, number: int, where: str) -> None:
        """What the handler raises goes on to the caller; the run is pending, with its steps."""

        def press() -> None:
            if not pressed:
                pressed.append(number)
                signal.raise_signal(number)

        pressed: list[int] = []

        @durably.job
        def job(step: StepContext) -> str:
            step.run("before", int)
            if where == "between steps":
                press()
            elif where == "in a step":
                step.run("press", press)
            else:
                retry = durably.Retry(attempts=3, wait=0.0)
                step.options(retry=retry).run("press", press)
            return "done"

        app = Durably(tmp_path / "x.db", jobs=[job])
        run = app.jobs["job"].trigger()
        with pytest.raises((SystemExit, TooSlowError)):
            app.process_one()
        stored = app.get_run(run.id)
        assert stored is not None
        assert (stored.status, stored.completed_steps) == (RunStatus.PENDING, 1)
        assert [step.name for step in app.get_steps(run.id)] == ["before"]
        assert app.process_one()
        assert app.wait(run).output == "done"
        app.close()

    def test_exit_of_the_job_itself_fails_the_run(self, tmp_path: Path) -> None:
        """``sys.exit`` in its code, or in a handler that it has set for itself."""

        @durably.job
        def leaving(step: StepContext) -> None:
            sys.exit(1)

        @durably.job
        def limited(step: StepContext) -> None:
            def handler(*_: object) -> None:
                raise TooSlowError

            before = signal.signal(signal.SIGALRM, handler)
            try:
                step.run("slow", signal.raise_signal, signal.SIGALRM)
            finally:
                signal.signal(signal.SIGALRM, before)

        app = Durably(tmp_path / "x.db", jobs=[leaving, limited])
        runs = [app.jobs[name].trigger() for name in ("leaving", "limited")]
        assert app.process_one()
        assert app.process_one()
        errors = [app.get_run(run.id).error.type for run in runs]
        assert errors == ["SystemExit", f"{TooSlowError.__module__}.TooSlowError"]
        app.close()


def test_read_that_is_left_halfway_says_nothing(tmp_path: Path) -> None:
    """A frame that a signal leaves halfway puts nothing back on a connection that is closed."""
    app = opened(tmp_path / "x.db")
    connection = apsw.Connection(":memory:")
    block = limited_wait(connection, Clock())
    block.__enter__()
    connection.close()
    del block  # as when the frame is collected, which would print what it raises
    gc.collect()
    app.close()


def test_other_threads_do_not_see_it(tmp_path: Path, seed: int) -> None:
    """What is raised in the thread that commits for others is raised in its call alone."""
    app = opened(tmp_path / "x.db")
    failures: list[BaseException] = []
    rng = random.Random(seed)

    def write() -> None:
        try:
            for _ in range(20):
                app.jobs["work"].trigger()
        except BaseException as exc:
            failures.append(exc)

    others = [threading.Thread(target=write) for _ in range(4)]
    for thread in others:
        thread.start()
    while any(thread.is_alive() for thread in others):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.random() * 0.002 + 1e-6)
            app.jobs["work"].trigger()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except TooSlowError:
            continue
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in others:
        thread.join(HANG_S)
    assert failures == []
    assert app.count_runs() >= 80
    app.close()
