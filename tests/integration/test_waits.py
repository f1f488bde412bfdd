"""Runs that wait for a time: suspended without a thread, woken in their turn, or in place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engines import engine, execute
from walls import Wall

import durably
from durably.execution.run_view import view_of

NAP = 60.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def status_of(app: durably.Durably, run: Any) -> str:
    found = app.get_run(run)
    assert found is not None
    return found.status


def test_a_run_sleeps_without_a_thread_and_goes_on_from_its_checkpoints(
    tmp_path: Path, wall: Wall
) -> None:
    """It waits, its ``finally`` is executed, no attempt is counted, and the instant stays.

    The run goes on in front of younger ones.
    """
    did: list[str] = []

    def job(step: durably.StepContext) -> int:
        try:
            step.run("before", did.append, "before")
            step.sleep_until("nap", NAP)
            step.run("after", did.append, "after")
        finally:
            did.append(f"attempt {step.attempt}")
        return step.attempt

    with engine(tmp_path, job) as app:
        since = datetime.now(UTC)
        asleep = execute(app)
        wait = asleep.waiting_for
        assert (asleep.status, asleep.is_active, asleep.completed_steps) == ("waiting", True, 1)
        assert (wait.kind, wait.name, wait.run_id) == ("time", "nap", None)
        assert since < wait.until - timedelta(seconds=NAP) < since + timedelta(seconds=30)
        assert did == ["before", "attempt 1"]
        assert "waiting" in repr(asleep)
        wall.advance(NAP / 2)
        assert app.run_until_idle() == 0
        younger = app.jobs["job"].trigger()
        wall.advance(NAP / 2)
        did.clear()
        assert app.process_one()  # in front of the younger one
        assert did == ["after", "attempt 1"]
        assert app.get_run(asleep).output == 1
        assert app.get_run(asleep).waiting_for is None
        assert [each.outcome for each in app.get_attempts(asleep)] == ["suspended", "completed"]
        assert status_of(app, younger) == "pending"


def test_a_step_that_failed_the_job_while_it_was_left_changes_nothing(
    tmp_path: Path, wall: Wall
) -> None:
    """Whatever the job makes of the suspension, it waits; a step in ``finally`` is not executed."""
    did: list[int] = []

    def job(step: durably.StepContext) -> None:
        try:
            step.sleep_until("nap", NAP)
        except BaseException:
            with pytest.raises(durably.RunSuspended):
                step.run("clean", did.append, 1)
            raise ValueError from None

    with engine(tmp_path, job) as app:
        asleep = execute(app)
        assert (asleep.status, asleep.waiting_for.name, did) == ("waiting", "nap", [])
        assert app.get_steps(asleep) == []


def test_a_started_engine_wakes_it_and_a_cancel_ends_it_at_once(tmp_path: Path, wall: Wall) -> None:
    """Its key is free meanwhile; a timer that was missed fires at the next start."""
    met = threading.Event()

    def job(step: durably.StepContext, name: str) -> str:
        if name == "sleeper":
            step.sleep_until("nap", NAP)
        met.set()
        return name

    with engine(tmp_path, job, max_workers=1) as app:
        handle = app.jobs["job"]
        sleeper = handle.trigger("sleeper", concurrency_key="k")
        doomed = handle.trigger("sleeper")
        app.start()
        other = handle.trigger("other", concurrency_key="k")
        assert app.wait(other, timeout=20).output == "other"
        app.stop()
        assert app.run_until_idle() == 0
        assert [status_of(app, run) for run in (sleeper, doomed)] == ["waiting", "waiting"]
        app.cancel(doomed)
        assert status_of(app, doomed) == "cancelled"
        with pytest.raises(durably.ConflictError):
            app.retry(sleeper)
        wall.advance(NAP)
        app.start()
        assert app.wait(sleeper, timeout=20).output == "sleeper"
        assert status_of(app, doomed) == "cancelled"


def test_a_wait_in_place_is_displayed_with_what_it_waits_for(tmp_path: Path, wall: Wall) -> None:
    """``app.run`` shows until when it waits, and what it asks."""
    seen: list[str | None] = []

    def look() -> None:
        while len(seen) < 2:
            [current] = app._supervisor.current_runs() or [None]
            message = None if current is None else view_of(current).message
            if message is not None and message not in seen:
                seen.append(message)
                if message == "asks: q":
                    app.answer(current.id, "q", 1)
                else:
                    wall.advance(NAP)

    def job(step: durably.StepContext) -> object:
        step.sleep_until("nap", NAP)
        return step.ask("q")

    with engine(tmp_path, job) as app:
        looking = threading.Thread(target=look)
        looking.start()
        assert app.run("job").output == 1
        looking.join(20)
    assert seen[0] is not None
    assert seen[0].startswith("waits until ")
    assert seen[1] == "asks: q"


@pytest.mark.parametrize("where", ["short", "thread", "run", "session"])
def test_short_waits_and_those_of_others_keep_their_thread(
    tmp_path: Path, wall: Wall, where: str
) -> None:
    """Less than five seconds, a thread of the job, ``app.run`` and a session wait in place."""
    when = 0.05 if where == "short" else NAP
    slept: list[int] = []

    def nap(step: Any) -> None:
        waker = threading.Timer(0.05, wall.advance, [NAP])
        waker.start()
        step.sleep_until("nap", when)
        slept.append(1)
        waker.join()

    def job(step: durably.StepContext) -> None:
        if where == "thread":
            thread = threading.Thread(target=nap, args=[step])
            thread.start()
            thread.join()
        else:
            nap(step)

    with engine(tmp_path, job) as app:
        if where == "session":
            with durably.session("s", db=tmp_path / "s.db") as step:
                nap(step)
        elif where == "run":
            assert app.run("job").attempt == 1
        else:
            assert execute(app).status == "completed"
    assert slept == [1]


def test_a_poll_checks_at_once_and_then_after_each_pause_across_resumes(
    tmp_path: Path, wall: Wall
) -> None:
    """``every`` gets the number of checks; what is not ``None`` is the result, with its type."""
    answers: list[Any] = [None, None, {"n": 1}]
    pauses: list[int] = []

    def every(tries: int) -> float:
        pauses.append(tries)
        return NAP * tries

    def check() -> dict[str, int] | None:
        answer: dict[str, int] | None = answers.pop(0)
        return answer

    def job(step: durably.StepContext) -> dict[str, int]:
        return step.poll("done", check, every=every)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert (run.status, run.waiting_for.kind, run.waiting_for.name) == (
            "waiting",
            "time",
            "done",
        )
        assert (pauses, len(answers)) == ([1], 2)
        wall.advance(NAP)
        assert app.process_one()
        wall.advance(NAP)
        assert not app.process_one()
        wall.advance(NAP)
        assert app.process_one()
        assert app.get_run(run).output == {"n": 1}
        assert (pauses, answers) == ([1, 2], [])


def test_a_poll_times_out_by_the_first_call_and_a_retry_begins_it_anew(
    tmp_path: Path, wall: Wall
) -> None:
    """The deadline is absolute: it comes although the next check would be later."""
    checks: list[int] = []

    def job(step: durably.StepContext) -> None:
        step.poll("done", lambda: checks.append(1), every=NAP, timeout=1.5 * NAP)

    with engine(tmp_path, job) as app:
        run = execute(app)
        for _ in range(2):
            wall.advance(NAP)
            assert app.process_one()
        failed = app.get_run(run)
        assert failed is not None
        assert failed.error is not None
        assert (failed.status, failed.error.type) == ("failed", "durably.StepTimeoutError")
        assert (failed.attempt, len(checks)) == (1, 2)
        app.retry(run)
        assert app.process_one()
        assert (status_of(app, run), len(checks)) == ("waiting", 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda step: step.sleep_until("s", -1),
        lambda step: step.sleep_until("s", datetime(2026, 1, 1)),
        lambda step: step.sleep_until("s", "soon"),
        lambda step: step.sleep_until("", 1),
        lambda step: step.poll("s", 1, every=1),
        lambda step: step.poll("s", list, every=-1),
        lambda step: step.poll("s", lambda: None, every=lambda _: None),
        lambda step: step.poll("s", list, every=1, timeout=-1),
    ],
)
def test_what_is_no_time_is_rejected(
    tmp_path: Path, call: Callable[[durably.StepContext], object]
) -> None:
    """The error fails the job, which does not wait."""

    def job(step: durably.StepContext) -> None:
        with pytest.raises(durably.ValidationError):
            call(step)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"


def test_an_instant_of_a_person_is_one_of_the_wall_clock(tmp_path: Path, wall: Wall) -> None:
    """A clock that is set back makes the wait longer, one that is set forward ends it."""
    when = datetime.now(UTC) + timedelta(hours=1)

    def job(step: durably.StepContext) -> None:
        step.sleep_until("nap", when)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.waiting_for.until == when
        wall.advance(-3600)
        assert not app.process_one()
        wall.advance(7200)
        assert app.process_one()
        assert status_of(app, run) == "completed"
        assert execute(app).status == "completed"  # it has passed
