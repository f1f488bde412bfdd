"""What an owner still writes after its run was taken over changes nothing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from children import Child, Eventually, held
from databases import open_database
from engines import whole
from invariants import check

import durably

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes"),
]

BEAT_S = 0.05
THRESHOLD_S = 0.3


# What the earlier owner does first when it goes on, of `programs/holder.py`.
WRITES = [
    "completion",
    "failure",
    "checkpoint",
    "failed step",
    "failed step that is handled",
    "progress",
]


@pytest.mark.parametrize("write", WRITES)
def test_write_of_an_earlier_owner_is_rejected(
    tmp_path: Path, write: str, eventually: Eventually
) -> None:
    """A completion, a failure, a checkpoint, a failed step or progress of an owner whose run was
    taken over is rejected: the run and its steps stay as the new owner left them.
    """

    @durably.job(origin="any")
    def hold(step: durably.StepContext) -> str:
        step.run("before", int)
        step.progress(1, 2, "by the second")
        return step.run("mine", str, "by the second")

    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S, f"--then={write}") as (child, run_id):
        child.stop(database)
        app = durably.Durably(
            database, jobs=[hold], heartbeat_interval=BEAT_S, stale_threshold=THRESHOLD_S
        )
        try:
            app.start()
            run = app.wait(run_id, timeout=20)
            steps = app.get_steps(run_id)
            assert (run.output, run.attempt) == ("by the second", 2)
            child.say()
            child.go_on()
            child.expect("ended")
            # Its engine works on: it can execute the next run, so all it had to write is written.
            child.say()
            other = trigger_one_more(app)
            eventually(lambda: app.get_run(other).is_terminal)
            assert whole(app.get_run(run_id)) == whole(run)
            assert app.get_steps(run_id) == steps
            assert run.progress == durably.Progress(1, 2, "by the second")
            app.stop()
        finally:
            app.close()
    assert check(database, is_finished=True) == []


def trigger_one_more(app: durably.Durably) -> str:
    """Trigger one more run of the job, for any of the engines; return its id."""
    return app.jobs["hold"].trigger().id


@pytest.mark.parametrize("write", WRITES)
def test_write_is_rejected_while_the_new_owner_executes(tmp_path: Path, write: str) -> None:
    """The database itself rejects the write of an earlier owner that has had no heartbeat, while
    the run is being executed by the new one.
    """
    entered, leave = threading.Event(), threading.Event()

    @durably.job(origin="any")
    def hold(step: durably.StepContext) -> str:
        step.run("before", int)
        entered.set()
        assert leave.wait(20)
        return step.run("mine", str, "by the second")

    database = tmp_path / "runs.db"
    with held(database, 60.0, 120.0, f"--then={write}") as (child, run_id):
        # Its heartbeat comes once a minute; let the observer believe it to be overdue.
        db = open_database(database)
        db.execute("UPDATE durably_owners SET heartbeat_interval_us = 1")
        db.close()
        app = durably.Durably(
            database,
            jobs=[hold],
            max_workers=1,
            heartbeat_interval=BEAT_S,
            stale_threshold=THRESHOLD_S,
        )
        try:
            app.start()
            assert entered.wait(20)
            child.say()
            child.expect("ended")
            # Its only slot is free: it claims the next run when the rejected one is done with.
            other = app.jobs["hold"].trigger()
            assert child.line() == f"inside 1 {other.id}"
            run = app.get_run(run_id)
            assert (run.status, run.attempt, run.error, run.progress) == ("running", 2, None, None)
            assert [step.name for step in app.get_steps(run_id)] == ["before"]
            leave.set()
            assert app.wait(run_id, timeout=20).output == "by the second"
            assert [step.name for step in app.get_steps(run_id)] == ["before", "mine"]
            app.stop()
        finally:
            leave.set()
            app.close()
    assert check(database) == []


@pytest.mark.parametrize("write", ["checkpoint", "failed step"])
def test_write_is_rejected_that_was_about_to_be_made(tmp_path: Path, write: str) -> None:
    """A run that is taken over in the instant before a checkpoint is written keeps what its new
    owner stores: who owns it is asked in the write itself and not before.
    """
    entered, leave = threading.Event(), threading.Event()

    @durably.job(origin="any")
    def hold(step: durably.StepContext) -> str:
        step.run("before", int)
        entered.set()
        assert leave.wait(20)
        return step.run("new", str, "by the second")

    database = tmp_path / "runs.db"
    with held(database, 60.0, 120.0, f"--then={write}", "--late") as (child, run_id):
        child.say()
        child.expect({"checkpoint": "writing complete", "failed step": "writing fail"}[write])
        # Its heartbeat comes once a minute; let the observer believe it to be overdue.
        db = open_database(database)
        db.execute("UPDATE durably_owners SET heartbeat_interval_us = 1")
        db.close()
        app = durably.Durably(
            database, jobs=[hold], heartbeat_interval=BEAT_S, stale_threshold=THRESHOLD_S
        )
        try:
            app.start()
            assert entered.wait(20)
            child.say()
            child.expect("writing cancel")
            child.say()
            child.expect("ended")
            assert [step.name for step in app.get_steps(run_id)] == ["before"]
            leave.set()
            run = app.wait(run_id, timeout=20)
            assert (run.output, run.attempt) == ("by the second", 2)
            assert [step.attempt for step in app.get_steps(run_id)] == [1, 2]
            app.stop()
        finally:
            leave.set()
            app.close()
    assert check(database) == []


def test_two_stopped_owners_in_turn(tmp_path: Path) -> None:
    """A run that is taken over twice belongs to the last owner alone."""
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S) as (first, run_id):
        first.stop(database)
        # A second process that has no run of its own takes it over, and hangs as well.
        with Child("holder", database, BEAT_S, THRESHOLD_S, "--idle") as second:
            assert second.line() == f"inside 2 {run_id}"
            second.stop(database)

            @durably.job(origin="any")
            def hold(step: durably.StepContext) -> str:
                step.run("before", int)
                return step.run("held", str, "from the third")

            app = durably.Durably(
                database, jobs=[hold], heartbeat_interval=BEAT_S, stale_threshold=THRESHOLD_S
            )
            try:
                app.start()
                run = app.wait(run_id, timeout=20)
                assert (run.output, run.attempt) == ("from the third", 3)
                for child in (first, second):
                    child.say()
                    child.go_on()
                    child.expect("stopped OwnershipLost")
                assert whole(app.get_run(run_id)) == whole(run)
                app.stop()
            finally:
                app.close()
    assert check(database, is_finished=True) == []


def test_process_that_was_taken_over_executes_the_run_again(tmp_path: Path) -> None:
    """An owner that hung and goes on may claim the run it has lost anew, as any other."""
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S) as (child, run_id):
        child.stop(database)
        # This engine recovers the run, but does not know its job.
        app = durably.Durably(database, heartbeat_interval=BEAT_S, stale_threshold=THRESHOLD_S)
        reasons: list[str] = []
        app.on("run:recover", lambda event: reasons.append(event.reason))
        try:
            app.start()
            seen = app._store.changes.snapshot()
            while not reasons:
                app._store.changes.wait(seen, 20)
            assert app.get_run(run_id).status == "pending"
            child.go_on()
            child.say()
            child.expect("stopped OwnershipLost")
            assert child.line() == f"inside 2 {run_id}"
            child.say()
            child.expect("after")
            run = app.wait(run_id, timeout=20)
            assert (run.output, run.attempt) == ("by the first", 2)
            assert reasons == ["stale"]
            app.stop()
        finally:
            app.close()
    assert check(database, is_finished=True) == []


def test_heartbeat_marks_all_runs_and_learns_of_their_cancellation(
    tmp_path: Path, eventually: Eventually
) -> None:
    """The heartbeat marks all runs of its process as alive at the same instant, again and again,
    and a run that another process cancels is woken out of its sleep by the next one.
    """
    database = tmp_path / "runs.db"
    with Child("sleeper", database, BEAT_S) as child:
        ids = [child.line().split()[2] for _ in range(4)]
        app = durably.Durably(database)
        try:

            def beats() -> set:
                return {app.get_run(run_id).heartbeat_at for run_id in ids}

            eventually(lambda: len(beats()) == 1)
            first = beats()
            eventually(lambda: len(beats()) == 1 and beats() != first)
            for run_id in ids:
                app.cancel(run_id)
                child.expect("RunCancelled True")
            eventually(lambda: check(database, is_finished=True) == [])
            eventually(lambda: not [r for r in app.get_runs() if not r.is_terminal])
        finally:
            app.close()
    assert check(database, is_finished=True) == []
