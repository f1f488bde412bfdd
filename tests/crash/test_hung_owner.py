"""An owner that hangs but lives: taken over after the threshold, and fenced off from then on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import Child, Eventually, held
from invariants import check

import durably
from durably._platform.clock import Clock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="stops and watches processes"),
]

BEAT_S = 0.05
THRESHOLD_S = 0.5


@durably.job(origin="any")
def hold(step: durably.StepContext) -> str:
    """The same job as in the other process, executed by the one that takes over."""
    step.run("before", int)
    step.run("held", str, "from the second")
    step.run("after", str, "after")
    return "by the second"


@contextmanager
def observer(
    database: Path, *, threshold: float = THRESHOLD_S, beat: float = BEAT_S
) -> Iterator[tuple[durably.Durably, list[str]]]:
    """A started engine that knows the job, and what it recovers."""
    reasons: list[str] = []
    app = durably.Durably(database, jobs=[hold], heartbeat_interval=beat, stale_threshold=threshold)
    app.on("run:recover", lambda event: reasons.append(event.reason))
    try:
        app.start()
        yield app, reasons
        app.stop()
    finally:
        app.close()


def beats_of(app: durably.Durably) -> int:
    """How many heartbeats the engine has committed."""
    return app._supervisor._heartbeat.committed


def get(app: durably.Durably, run_id: str) -> durably.Run:
    """The run, which must exist."""
    run = app.get_run(run_id)
    assert run is not None
    return run


def test_stopped_process_is_taken_over_and_changes_nothing_later(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A process stopped past the threshold loses its run; continued, it changes nothing of it,
    and its job is stopped at the next step with OwnershipLost.
    """
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S) as (child, run_id):
        child.stop(database)
        with observer(database) as (app, reasons):
            run = app.wait(run_id, timeout=20)
            assert reasons == ["stale"]
            assert (run.output, run.attempt) == ("by the second", 2)
            steps = app.get_steps(run_id)
            assert [(step.name, step.output, step.attempt) for step in steps] == [
                ("before", 0, 1),
                ("held", "from the second", 2),
                ("after", "after", 2),
            ]

            child.go_on()
            child.say()
            child.expect("stopped OwnershipLost")

            # The process that was taken over lives, and its next heartbeat is committed.
            seen = beats_of(app)
            eventually(lambda: beats_of(app) > seen + 3)
            assert get(app, run_id) == run
            assert app.get_steps(run_id) == steps
            assert check(database) == []
    assert check(database, is_finished=True) == []


def test_stopped_process_stops_at_the_next_step_even_before_its_heartbeat(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A job whose run was taken over stops at its next step by the rejected write alone, though
    no heartbeat of its engine has noticed it.
    """
    database = tmp_path / "runs.db"
    with held(database, 1.0, 2.0) as (child, run_id):
        child.stop(database)
        with observer(database) as (app, _):
            assert app.wait(run_id, timeout=20).output == "by the second"
            # The line is there before the process goes on.
            child.say()
            child.go_on()
            child.expect("stopped OwnershipLost")
            assert app.get_steps(run_id)[1].output == "from the second"
    assert check(database, is_finished=True) == []


def test_taken_over_run_keeps_a_concurrency_key_to_itself(
    tmp_path: Path, eventually: Eventually
) -> None:
    """The key of a run that was taken over is held by one run at any time."""
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S, "--key=one") as (child, run_id):
        child.stop(database)
        with observer(database) as (app, _):
            other = app.jobs["hold"].trigger(concurrency_key="one")
            assert app.wait(run_id, timeout=20).output == "by the second"
            assert app.wait(other, timeout=20).output == "by the second"
            assert check(database) == []
            child.go_on()
            child.say()
            child.expect("stopped OwnershipLost")
    assert check(database, is_finished=True) == []


def test_stopped_process_keeps_its_run_within_the_threshold(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A process that is stopped for less than the threshold goes on as if nothing had been."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, 60.0) as (child, run_id),
        observer(database, threshold=60.0) as (app, reasons),
    ):
        child.stop(database)
        seen = beats_of(app)
        eventually(lambda: beats_of(app) > seen + 10)
        assert get(app, run_id).status == "running"
        child.go_on()
        child.say()
        child.expect("after")
        run = app.wait(run_id, timeout=20)
        assert (run.output, run.attempt, reasons) == ("by the first", 1, [])
        assert check(database) == []


def test_step_that_holds_the_gil_keeps_its_run_within_the_threshold(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A live owner whose step holds the GIL, so that no heartbeat comes, keeps its run."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, 60.0, "--held=gil") as (child, run_id),
        observer(database, threshold=60.0) as (app, reasons),
    ):
        before = get(app, run_id).heartbeat_at
        seen = beats_of(app)
        eventually(lambda: beats_of(app) > seen + 10)
        assert get(app, run_id).heartbeat_at == before, "the step did not hold the GIL"
        child.say()
        child.expect("after")
        assert app.wait(run_id, timeout=20).attempt == 1
        assert reasons == []


def test_step_that_holds_the_gil_past_the_threshold_is_fenced_off(
    tmp_path: Path, eventually: Eventually
) -> None:
    """An owner without heartbeats for longer than the threshold is hung: its run is another's."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S, "--held=gil") as (child, run_id),
        observer(database) as (app, reasons),
    ):
        run = app.wait(run_id, timeout=20)
        assert (run.output, reasons) == ("by the second", ["stale"])
        child.say()
        child.expect("stopped OwnershipLost")
        assert get(app, run_id) == run
    assert check(database, is_finished=True) == []


def test_owner_with_slow_heartbeats_is_given_two_of_its_own(
    tmp_path: Path, eventually: Eventually
) -> None:
    """An observer with a short threshold waits for two of the owner's own intervals."""
    database = tmp_path / "runs.db"
    with (
        held(database, 30.0, 60.0) as (child, run_id),
        observer(database, threshold=2 * BEAT_S) as (app, reasons),
    ):
        seen = beats_of(app)
        eventually(lambda: beats_of(app) > seen + 20)
        assert get(app, run_id).status == "running"
        child.say()
        child.expect("after")
        assert app.wait(run_id, timeout=20).attempt == 1
        assert reasons == []


def test_healthy_owner_is_not_taken_over_while_another_program_locks_the_file(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A database locked by another program past the threshold is not taken for the death of
    the engines that cannot write their heartbeats.
    """
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S) as (child, run_id),
        observer(database, beat=0.1) as (app, reasons),
        Child("locker", database) as locker,
    ):
        locker.expect("ready")
        locker.say("lock")
        locker.expect("lock")
        locked_until = time.monotonic() + 4 * THRESHOLD_S
        seen = beats_of(app)
        eventually(lambda: time.monotonic() > locked_until)
        assert beats_of(app) <= seen + 1, "the file was not locked"
        locker.say("free")
        locker.expect("free")
        eventually(lambda: beats_of(app) > seen + 10)
        assert reasons == []
        child.say()
        child.expect("after")
        assert app.wait(run_id, timeout=20).attempt == 1
        assert check(database) == []


@pytest.mark.parametrize("hours", [1, -1], ids=["forward", "back"])
def test_clock_that_jumps_decides_nothing(
    tmp_path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A wall clock that jumps by an hour, either way, in the observer or for a new run, takes no
    run from its owner and keeps none from being recovered.
    """
    database = tmp_path / "runs.db"
    now_us = Clock.now_us
    with (
        held(database, BEAT_S, THRESHOLD_S) as (child, run_id),
        observer(database, beat=0.1) as (app, reasons),
    ):
        monkeypatch.setattr(Clock, "now_us", lambda clock: now_us(clock) + hours * 3_600_000_000)
        seen = beats_of(app)
        eventually(lambda: beats_of(app) > seen + 10)
        assert reasons == []
        assert get(app, run_id).status == "running"
        own = app.jobs["hold"].trigger_and_wait(timeout=20)
        assert own.duration is not None
        assert own.duration >= 0
        child.kill()
        run = app.wait(run_id, timeout=20)
        assert (reasons, run.attempt) == (["dead"], 2)
        assert run.duration is not None
        assert run.duration >= 0
    assert check(database, is_finished=True) == []


def test_engine_never_reaps_its_own_runs(tmp_path: Path, eventually: Eventually) -> None:
    """An engine whose own heartbeats stand still keeps its runs."""
    entered, leave = threading.Event(), threading.Event()

    @durably.job
    def mine(step: durably.StepContext) -> int:
        entered.set()
        assert leave.wait(20)
        return step.run("one", int)

    database = tmp_path / "runs.db"
    with observer(database, threshold=2 * BEAT_S) as (app, reasons):
        run = app.register(mine).trigger()
        assert entered.wait(20)
        heartbeat = app._supervisor._heartbeat
        heartbeat.stop()
        looks = _count_looks(app)
        eventually(lambda: looks() > 5)
        heartbeat.start()
        leave.set()
        assert app.wait(run, timeout=20).attempt == 1
        assert reasons == []
    assert check(database, is_idle=True) == []


def _count_looks(app: durably.Durably):
    reaper = app._supervisor._reaper
    recover, looks = reaper.recover, []

    def counted() -> int:
        looks.append(None)
        return recover()

    reaper.recover = counted
    return lambda: len(looks)
