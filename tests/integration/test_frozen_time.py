"""A clock that a test of the user's has stopped: a wait ends when its real time has passed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import execute

import durably
from durably import Durably, Retry, RunStatus, StepContext, WaitTimeoutError

# What mocks and freezegun replace: by name in the module, and wherever else they find it.
READINGS = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns")
HANG_S = 30.0  # only guards against hanging


def standing_still(name: str) -> Callable[[], float]:
    now: float = getattr(time, name)()
    return lambda: now


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading of the module ``time`` stands still."""
    for name in READINGS:
        monkeypatch.setattr(time, name, standing_still(name))
    # Those that other modules have taken over by name.
    monkeypatch.setattr(threading, "_time", time.monotonic)
    monkeypatch.setattr(queue, "time", time.monotonic)


@durably.job
def quick(step: StepContext) -> str:
    step.progress(1, 2)
    return step.run("one", str)


@durably.job
def sleeping(step: StepContext) -> None:
    step.sleep(0.1)


@durably.job
def trying_again(step: StepContext) -> int:
    def fail_once() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError
        return len(calls)

    calls: list[int] = []
    retry = Retry(attempts=2, wait=0.1, jitter=False)
    return step.options(retry=retry).run("one", fail_once)


@durably.job
def endless(step: StepContext) -> None:
    step.sleep(3600)


JOBS = [quick, sleeping, trying_again, endless]


def wait_for_each(app: Durably) -> None:
    for name in ("quick", "sleeping", "trying_again"):
        app.jobs[name].trigger_and_wait()


def wait_with_a_timeout(app: Durably) -> None:
    with pytest.raises(WaitTimeoutError):
        app.jobs["endless"].trigger_and_wait(timeout=0.1)


def wait_for_several_with_a_timeout(app: Durably) -> None:
    with pytest.raises(WaitTimeoutError):
        list(app.as_completed([app.jobs["endless"].trigger()], timeout=0.1))


def stop_with_a_timeout(app: Durably) -> None:
    run = app.jobs["endless"].trigger()
    while app.get_run(run.id).status is not RunStatus.RUNNING:
        threading.Event().wait(0.01)  # polled; the test's own limit ends it
    with pytest.raises(WaitTimeoutError):
        app.stop(timeout=0.1)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    "scene",
    [
        wait_for_each,
        wait_with_a_timeout,
        wait_for_several_with_a_timeout,
        stop_with_a_timeout,
    ],
    ids=lambda scene: scene.__name__,
)
@pytest.mark.parametrize("is_main", [True, False], ids=["main thread", "another thread"])
@pytest.mark.timeout(4 * HANG_S)
def test_a_started_engine(tmp_path: Path, scene: Callable[[Durably], None], is_main: bool) -> None:
    """An engine starts, waits and stops while the time stands still, in whatever thread."""
    app = Durably(tmp_path / "a.db", jobs=JOBS, poll_interval=0.1).start()
    try:
        if is_main:
            scene(app)
        else:
            failures: list[BaseException] = []

            def work() -> None:
                try:
                    scene(app)
                except BaseException as exc:
                    failures.append(exc)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join(HANG_S)
            assert not thread.is_alive()
            assert failures == []
    finally:
        app.stop(interrupt=True)
        app.close()


@pytest.mark.usefixtures("frozen")
@pytest.mark.timeout(4 * HANG_S)
def test_an_engine_without_threads(tmp_path: Path) -> None:
    """``process_one`` and ``run_until_idle`` execute what sleeps while the time stands still."""
    with_time = Durably(tmp_path / "a.db", jobs=JOBS)
    with_time.jobs["sleeping"].trigger()
    with_time.jobs["trying_again"].trigger()
    with_time.jobs["sleeping"].trigger()
    assert with_time.process_one()
    assert with_time.run_until_idle() == 2
    with_time.close()


@pytest.mark.usefixtures("frozen")
@pytest.mark.timeout(4 * HANG_S)
def test_a_heartbeat(tmp_path: Path) -> None:
    """A run is marked as alive at each interval while the time stands still."""
    app = Durably(
        tmp_path / "a.db", jobs=JOBS, heartbeat_interval=0.02, stale_threshold=0.04
    ).start()
    run = app.jobs["endless"].trigger()
    beats = app._supervisor._heartbeat
    beaten = beats.committed
    while beats.committed < beaten + 3:
        threading.Event().wait(0.01)  # polled; the test's own limit ends it
    assert app.get_run(run.id).status is RunStatus.RUNNING
    app.stop(interrupt=True)
    app.close()


@pytest.mark.timeout(4 * HANG_S)
def test_a_time_that_is_frozen_before_durably_is_imported(tmp_path: Path) -> None:
    """It makes no difference which comes first."""
    done = execute("imports_with_frozen_time", tmp_path / "a.db", *READINGS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "timed out\n", "")
