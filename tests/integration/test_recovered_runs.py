"""A run that was taken over is another owner's: what its former one still does changes nothing."""

from __future__ import annotations

import threading

import pytest
from engines import GRACE_S, engine, execute, record, take_over, types
from held import HeldJob

import durably
from durably._platform.clock import Clock
from durably.store.outcome import OwnerDead
from durably.store.sqlite.sql import owners, requeue
from durably.store.sqlite.store import SqliteCheckpoints


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_result_that_comes_after_a_take_over_is_not_stored(tmp_path, is_claimed):
    """The former owner emits step:cancel; it is recorded only while its attempt is the latest."""
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


class Stale:
    """A run whose first attempt stays inside its job after it was put back, as of a hung engine."""

    def __init__(self):
        self.is_inside, self.may_end = threading.Event(), threading.Event()
        self.threads = []

    def job(self, step, payload):
        if payload != "stale":
            return "other"
        if step.attempt == 1:
            self.is_inside.set()
            assert self.may_end.wait(GRACE_S)
            self.threads.append(1)
            return "by a former owner"
        assert self.may_end.is_set()
        self.threads.append(step.attempt)
        return "by the latest"

    def begin(self, app):
        run = app.jobs["job"].trigger("stale")
        assert self.is_inside.wait(GRACE_S)
        take_over(app)
        return run

    def end(self, app, run):
        assert (app.get_run(run).status, app.get_run(run).attempt) == ("pending", 1)
        self.may_end.set()


@pytest.fixture
def stale():
    stale = Stale()
    yield stale
    stale.may_end.set()


# Nobody learns by a heartbeat that the run was put back.
UNNOTICED = {"heartbeat_interval": 600, "stale_threshold": 1200}


@pytest.mark.parametrize("how", ["by the dispatcher", "with a trigger", "with the end of a run"])
def test_an_engine_does_not_claim_what_its_own_thread_is_inside_of(
    tmp_path, monkeypatch, stale, how
):
    """A run that others put back is passed over until its old job has left, then claimed."""
    held = HeldJob()
    with engine(tmp_path, stale.job, max_workers=2, **UNNOTICED) as app, held:
        app.register(held.job)
        if how == "with a trigger":
            # Or it might have the slot at that moment.
            monkeypatch.setattr(app._supervisor._dispatcher, "dispatch", lambda: True)
        app.start()
        run = stale.begin(app)
        if how == "with the end of a run":
            app.jobs["held"].trigger()
            held.inside()
        other = app.jobs["job"].trigger(
            "other", concurrency_key="k" if how == "by the dispatcher" else None
        )
        held.let_go()
        assert app.wait(other, timeout=GRACE_S).output == "other"
        monkeypatch.undo()
        stale.end(app, run)
        assert app.wait(run, timeout=GRACE_S).output == "by the latest"
    assert stale.threads == [1, 2]


def test_process_one_does_not_claim_what_another_thread_is_inside_of(tmp_path, stale):
    """There is nothing to execute while the old job is inside, and the run afterwards."""
    with engine(tmp_path, stale.job, max_workers=1, **UNNOTICED) as app:
        app.start()
        run = stale.begin(app)
        assert not app.process_one()
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(timeout=0)
        stale.end(app, run)
        app.stop()
        assert app.process_one()
        assert (app.get_run(run).output, app.get_run(run).attempt) == ("by the latest", 2)
    assert stale.threads == [1, 2]


@pytest.mark.parametrize("how", ["run_until_idle", "with"])
def test_waiting_for_all_runs_waits_for_one_that_was_put_back(tmp_path, stale, how):
    """It ends when the run has been executed again, and not before."""
    with engine(tmp_path, stale.job, max_workers=2, **UNNOTICED) as app:
        counts = []
        draining = threading.Thread(
            target=(lambda: counts.append(app.run_until_idle()))
            if how == "run_until_idle"
            else lambda: app.__exit__(None, None, None)
        )
        if how == "run_until_idle":
            run = app.jobs["job"].trigger("stale")
            draining.start()
            assert stale.is_inside.wait(GRACE_S)
            take_over(app)
        else:
            app.__enter__()
            run = stale.begin(app)
            draining.start()
        other = app.jobs["job"].trigger("other")
        assert app.wait(other, timeout=GRACE_S).output == "other"
        assert draining.is_alive()
        stale.end(app, run)
        draining.join(GRACE_S)
        assert not draining.is_alive()
    with engine(tmp_path) as app:
        assert (app.get_run(run).output, app.get_run(run).attempt) == ("by the latest", 2)
    assert counts == ([3] if how == "run_until_idle" else [])
    assert stale.threads == [1, 2]


def in_one_try(step, effect):
    return step.run("effect", effect)


def in_a_later_try(step, effect):
    tries = []

    def flaky():
        tries.append(1)
        if len(tries) > 1:
            return effect()
        stop_for_long(step)
        raise ValueError

    return step.options(retry=durably.Retry(wait=0)).run("effect", flaky)


def stop_for_long(step):
    """What is left of this process stopping for an hour: its last sign of life is that old."""
    step._run.current_at -= 3600


LOSSES = {
    "put back": durably.OwnershipLost,
    "completed": durably.OwnershipLost,
    "cancelled": durably.RunCancelled,
    "deleted": durably.OwnershipLost,
}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("use", [in_one_try, in_a_later_try])
def test_an_owner_that_was_stopped_for_long_checks_before_it_executes_a_step(tmp_path, use, how):
    """What another one has done meanwhile is not done again, though no heartbeat has shown it."""
    effects, raised = [], []

    def job(step):
        step.run("before", int)
        if step.attempt == 2:
            return "second"
        if how == "cancelled":
            with engine(tmp_path) as other:
                other.cancel(step.run_id)
        else:
            take_over(app)
        if how == "completed":
            with engine(tmp_path, job) as other:
                assert other.process_one()
        if how == "deleted":
            with engine(tmp_path) as other:
                other.cancel(step.run_id)
                other.delete_run(step.run_id)
        if use is in_one_try:
            stop_for_long(step)
        try:
            return use(step, lambda: effects.append(1))
        except BaseException as exc:
            raised.append(type(exc))
            raise

    with engine(tmp_path, job, **UNNOTICED) as app:
        app.jobs["job"].trigger()
        assert app.process_one()
        expected = {"put back": "pending", "deleted": None}.get(how, how)
        assert [run.status for run in app.get_runs()] == ([] if expected is None else [expected])
    assert effects == []
    assert raised == [LOSSES[how]]


def test_an_owner_that_is_one_still_checks_once_and_goes_on(tmp_path, monkeypatch):
    """A step costs no read while heartbeats go through, and one after they did not."""
    looks = []
    look = SqliteCheckpoints.state

    def counted(*args):
        looks.append(1)
        return look(*args)

    monkeypatch.setattr(SqliteCheckpoints, "state", counted)

    def job(step):
        step.run("fresh", int)
        counts = [len(looks)]
        stop_for_long(step)
        for number in range(3):
            step.run(f"stale-{number}", int)
            counts.append(len(looks))
        return counts

    with engine(tmp_path, job, **UNNOTICED) as app:
        assert execute(app).output == [0, 1, 1, 1]


def test_a_heartbeat_that_is_committed_is_a_sign_that_the_run_is_its_owners(tmp_path, eventually):
    """Each one makes the attempts that it finds current; one that fails makes none."""
    is_inside, may_end = threading.Event(), threading.Event()

    def job(step):
        is_inside.set()
        assert may_end.wait(GRACE_S)

    with engine(tmp_path, job, heartbeat_interval=0.05, stale_threshold=10) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        (active,) = app._supervisor.current_runs()
        active.current_at -= 3600
        before = Clock().monotonic() - 60
        eventually(lambda: active.current_at > before)
        may_end.set()
        app.wait(run, timeout=GRACE_S)


def test_an_engine_taken_for_dead_counts_again_once_it_beats(tmp_path, eventually):
    """It registers anew, and as started: threads that wait elsewhere for a run may count on it."""

    def rows():
        return observer._store.database.read(owners.list_all)

    with (
        engine(tmp_path, heartbeat_interval=0.02, stale_threshold=1) as app,
        engine(tmp_path) as observer,
    ):
        app.start()
        (before,) = rows()
        observer._store.database.write(requeue.requeue, OwnerDead(before.owner), Clock().now_us())
        eventually(lambda: [row.is_started for row in rows()] == [1])
        (after,) = rows()
        assert after.owner != before.owner
