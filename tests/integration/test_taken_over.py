"""A run that was taken over is another owner's: what its former one still does changes nothing."""

from __future__ import annotations

import threading

import pytest
from engines import GRACE_S, engine, execute, record, take_over, types

import durably
from durably.store import owners, runs


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_result_that_comes_after_a_take_over_is_not_stored(tmp_path, is_claimed):
    """The former owner tells step:cancel; it is recorded only while its attempt is the latest."""
    raised = []

    def work(step):
        if step.attempt == 1:
            assert not step.cancelled
            take_over(app)
            if is_claimed:
                with engine(tmp_path, job) as other:
                    assert other.process_one()
        return f"by attempt {step.attempt}"

    def job(step):
        try:
            return step.run("s", work, step)
        except durably.StopRun as exc:
            raised.append((type(exc), step.cancelled))
            raise

    with engine(tmp_path, job, heartbeat_interval=10) as app:
        events = record(app)
        run = execute(app)
        (only,) = app.get_steps(run)
    assert raised == [(durably.OwnershipLost, True)]
    assert types(events) == ["run:trigger", "run:start", "step:start", "step:cancel"]
    if is_claimed:
        assert (run.status, run.output, run.attempt) == ("completed", "by attempt 2", 2)
        assert (only.status, only.output, only.attempt) == ("completed", "by attempt 2", 2)
    else:
        assert (run.status, run.attempt) == ("pending", 1)
        assert (only.status, only.attempt) == ("cancelled", 1)


@pytest.mark.parametrize("end", ["returns", "raises", "fails a step"])
def test_a_former_owner_neither_completes_nor_fails_the_run(tmp_path, end):
    """Whatever a job does after its run was taken over changes nothing in the database."""

    def job(step):
        if step.attempt == 2:
            return "second"
        take_over(app)
        with engine(tmp_path, job) as other:
            assert other.process_one()
        step.progress(1)
        if end == "raises":
            raise ValueError
        if end == "fails a step":
            step.run("s", int, "x")
        return "first"

    with engine(tmp_path, job, heartbeat_interval=10) as app:
        events = record(app)
        run = execute(app)
        assert app.get_steps(run) == []
    assert (run.status, run.output, run.error, run.progress) == ("completed", "second", None, None)
    assert not {"run:complete", "run:fail", "run:interrupt", "run:progress"} & {
        event.type for event in events
    }


def test_a_subscription_does_not_wait_for_the_former_owner(tmp_path):
    """A run that was taken over and has ended ends its subscription, its old job inside or not."""
    is_inside, may_end = threading.Event(), threading.Event()

    def job(step):
        if step.attempt == 1:
            is_inside.set()
            assert may_end.wait(GRACE_S)
        return step.attempt

    # One worker, which is busy: this engine cannot claim the run again by itself.
    options = {"max_workers": 1, "heartbeat_interval": 0.05, "stale_threshold": 10}
    with engine(tmp_path, job, **options) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with app.subscribe(run) as subscription, engine(tmp_path, job) as other:
            take_over(app)
            assert other.process_one()
            assert [event.type for event in subscription] == ["run:complete"]
        may_end.set()
        assert app.get_run(run).output == 2


def test_an_engine_taken_for_dead_counts_again_once_it_beats(tmp_path, eventually):
    """It registers anew, and as started: who waits elsewhere for a run may count on it."""

    def rows():
        return observer._database.read(owners.list_all)

    with (
        engine(tmp_path, heartbeat_interval=0.02, stale_threshold=1) as app,
        engine(tmp_path) as observer,
    ):
        app.start()
        (before,) = rows()
        observer._database.write(runs.recover_dead, before.owner, app._clock.now_us())
        eventually(lambda: [row.is_started for row in rows()] == [1])
        (after,) = rows()
        assert after.owner != before.owner
