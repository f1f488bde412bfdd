"""retry, retrigger, cancel, delete_run and purge_runs: what they do, and when they raise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import attrs
import pytest
from databases import open_database
from engines import whole
from held import HeldJob, finish, other
from invariants import check
from naming import plainly

import durably
from durably.plugins import LogPersistence


class Nowhere(tzinfo):
    """A time zone that does not know its offset, which is as good as none."""

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None


STATUSES = ["pending", "running", "completed", "failed", "cancelled"]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


@pytest.fixture
def app(path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(path, jobs=[finish, other])
    yield opened
    opened.close()


def run_of_status(app: durably.Durably, status: str, **options: Any) -> durably.Run:
    """A run that was just brought to *status*, anything but running."""
    payload = "fail" if status == "failed" else "x"
    run = app.jobs["finish"].trigger(payload, **options)
    if status == "cancelled":
        app.cancel(run)
    elif status != "pending":
        assert app.process_one()
    found = app.get_run(run)
    assert found is not None
    assert found.status == status
    return found


def events_of(app: durably.Durably) -> list[tuple[str, str, dict[str, str]]]:
    """Collects type, run and labels of every event of runs."""
    heard: list[tuple[str, str, dict[str, str]]] = []
    app.on("*", lambda event: heard.append((event.type, event.run_id, event.labels)))
    return heard


ALLOWED: dict[str, set[str]] = {
    "retry": {"failed", "cancelled"},
    "retrigger": {"completed", "failed", "cancelled"},
    "cancel": {"pending", "running"},
    "delete_run": {"completed", "failed", "cancelled"},
}


@pytest.mark.parametrize(
    ("call", "status"),
    [(call, each) for call, allowed in ALLOWED.items() for each in STATUSES if each not in allowed],
)
def test_each_call_is_rejected_in_the_other_states(path: Path, call: str, status: str) -> None:
    """A ConflictError names the run and its state, and the run is as it was."""
    app = durably.Durably(path, jobs=[finish])
    with app, HeldJob() as held:
        if status == "running":
            run = app.register(held.job).trigger(1)
            held.inside()
        else:
            app.stop()
            run = run_of_status(app, status)
        before = app.get_run(run)
        heard = events_of(app)
        with pytest.raises(durably.ConflictError, match=f"{run.id} is {status}"):
            getattr(app, call)(run)
        after = app.get_run(run)
        assert whole(attrs.evolve(after, heartbeat_at=before.heartbeat_at)) == whole(before)
        assert (heard, app.count_runs()) == ([], 1)


# -- retry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_retry_puts_a_run_back_with_its_steps(app: durably.Durably, status: str) -> None:
    """It is pending at once, emits ``run:retry``, and executes what has no checkpoint."""
    run = run_of_status(app, status, labels={"a": "b"})
    heard = events_of(app)
    assert run.refresh().failures == (1 if status == "failed" else 0)

    pending = app.retry(run.id)

    assert pending.failures == 0
    assert (pending.id, pending.status, pending.disposition) == (run.id, "pending", None)
    assert whole(pending) == whole(app.get_run(run))
    assert pending.completed_steps == (1 if status == "failed" else 0)
    assert heard == [("run:retry", run.id, {"a": "b"})]
    assert app.process_one()
    assert app.get_run(run).attempt == (2 if status == "failed" else 1)


def test_retry_of_a_job_that_is_not_registered_is_possible(path: Path) -> None:
    """It goes back to pending, for a process that knows the job."""
    app = durably.Durably(path, jobs=[finish])
    run = run_of_status(app, "failed")
    app.close()
    stranger = durably.Durably(path)
    try:
        assert stranger.retry(run).status == "pending"
        assert not stranger.process_one()
    finally:
        stranger.close()


def test_a_listener_may_retry_the_run_that_failed(app: durably.Durably) -> None:
    """The end is committed when the listener is called, so that the retry is no conflict."""
    run = app.jobs["finish"].trigger("fail")
    attempts: list[int] = []

    @app.on("run:fail")
    def again(event: Any) -> None:
        attempts.append(app.get_run(event.run_id).attempt)
        if len(attempts) < 3:
            app.retry(event.run_id)

    assert app.run_until_idle() == 3
    assert attempts == [1, 2, 3]
    assert app.get_run(run).status == "failed"


@pytest.mark.parametrize("call", ["retry", "cancel", "delete_run"])
def test_of_eight_threads_one_succeeds(app: durably.Durably, call: str) -> None:
    """The others get a ConflictError, or NotFoundError where the run is gone."""
    run = run_of_status(app, "pending" if call == "cancel" else "failed")
    heard = events_of(app)
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def attempt() -> None:
        barrier.wait()
        try:
            getattr(app, call)(run)
            outcomes.append("done")
        except durably.DurablyError as exc:
            outcomes.append(type(exc).__name__)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = "NotFoundError" if call == "delete_run" else "ConflictError"
    assert sorted(outcomes) == sorted(["done"] + [refused] * 7)
    assert len(heard) == 1


# -- retrigger --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_retrigger_makes_a_fresh_run(app: durably.Durably, status: str) -> None:
    """It has the payload, labels and concurrency key, but no idempotency key, steps or attempts."""
    old = run_of_status(app, status, labels={"a": "b"}, concurrency_key="c", idempotency_key="i")
    heard = events_of(app)

    new = app.retrigger(old)

    assert new.id != old.id
    assert (new.payload, new.labels, new.concurrency_key) == (old.payload, {"a": "b"}, "c")
    assert (new.idempotency_key, new.status, new.attempt) == (None, "pending", 0)
    assert (new.completed_steps, app.get_steps(new)) == (0, [])
    assert whole(app.get_run(old)) == whole(old)
    assert heard == [("run:trigger", new.id, {"a": "b"})]


def test_retrigger_twice_makes_two_runs(app: durably.Durably) -> None:
    """Nothing stands in for them."""
    old = run_of_status(app, "completed")
    assert len({old.id, app.retrigger(old).id, app.retrigger(old.id).id}) == 3


def test_retrigger_needs_the_job(path: Path) -> None:
    """NotFoundError names the job that is not registered here, and nothing is stored."""
    app = durably.Durably(path, jobs=[finish])
    old = run_of_status(app, "completed")
    app.close()
    stranger = durably.Durably(path)
    try:
        with pytest.raises(durably.NotFoundError, match="finish"):
            stranger.retrigger(old)
        assert stranger.count_runs() == 1
    finally:
        stranger.close()


def needs_a_number(step: durably.StepContext, payload: int) -> None: ...
def takes_nothing(step: durably.StepContext) -> None: ...


@pytest.mark.parametrize("today", [needs_a_number, takes_nothing])
def test_retrigger_validates_against_todays_job(path: Path, today: Callable[..., None]) -> None:
    """A payload that today's job does not take is a ValidationError, and nothing is stored."""
    app = durably.Durably(path, jobs=[finish])
    old = run_of_status(app, "completed")
    app.close()
    changed = durably.Durably(path, jobs=[durably.Job("finish", today)])
    try:
        with pytest.raises(durably.ValidationError, match="payload"):
            changed.retrigger(old)
        assert changed.count_runs() == 1
    finally:
        changed.close()


def test_retrigger_of_a_run_without_payload(app: durably.Durably) -> None:
    """What took no payload takes none again."""
    old = app.register(durably.Job("bare", takes_nothing)).trigger()
    assert app.process_one()
    new = app.retrigger(old)
    assert app.process_one()
    assert app.wait(new).payload is None


# -- cancel -----------------------------------------------------------------------------------


def test_a_cancelled_pending_run_is_never_executed(app: durably.Durably) -> None:
    """It is cancelled when the call returns, which returns nothing and emits ``run:cancel``."""
    run = app.jobs["finish"].trigger(1, labels={"a": "b"})
    heard = events_of(app)
    assert app.cancel(run) is None
    assert app.get_run(run).status == "cancelled"
    assert heard == [("run:cancel", run.id, {"a": "b"})]
    assert not app.process_one()


def test_a_running_run_is_cancelled_at_once_and_stops_at_its_boundary(path: Path) -> None:
    """The database says so when cancel returns; the job leaves with RunCancelled."""
    left: list[type[BaseException]] = []
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait(20)

    @durably.job
    def long(step: durably.StepContext) -> None:
        try:
            step.run("one", hold)
            step.run("two", left.append, AssertionError)
        except BaseException as exc:
            left.append(type(exc))
            assert step.cancelled
            raise

    with durably.Durably(path, jobs=[long]) as app:
        heard = events_of(app)
        run = app.jobs["long"].trigger()
        assert entered.wait(20)
        app.cancel(run)
        assert app.get_run(run).status == "cancelled"
        leave.set()
    assert left == [durably.RunCancelled]
    assert [type_ for type_, *_ in heard] == [
        "run:trigger",
        "run:start",
        "step:start",
        "run:cancel",
        "step:cancel",
    ]


def test_a_job_that_swallows_its_cancellation_stays_cancelled(path: Path) -> None:
    """Whatever it returns or raises afterwards changes nothing."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait(20)

    @durably.job
    def stubborn(step: durably.StepContext, payload: str) -> str:
        try:
            step.run("one", hold)
        except BaseException as exc:
            if payload == "raise":
                raise ValueError("something else") from exc
        return "done"

    with durably.Durably(path, jobs=[stubborn]) as app:
        heard = events_of(app)
        for payload in ("return", "raise"):
            entered.clear()
            leave.clear()
            run = app.jobs["stubborn"].trigger(payload, concurrency_key="c")
            assert entered.wait(20)
            app.cancel(run)
            leave.set()
        last = app.jobs["stubborn"].trigger("return", concurrency_key="c")
        assert app.wait(last).output == "done"
        assert app.count_runs(status="cancelled") == 2
    assert not [type_ for type_, *_ in heard if type_ == "run:fail"]


def test_a_job_may_cancel_itself_and_others(path: Path) -> None:
    """The call returns inside the job, which stops at its next boundary."""

    @durably.job
    def cancelling(step: durably.StepContext, targets: str) -> str:
        for run in app.get_runs(status=targets):
            app.cancel(run)
        step.check()
        return "went on"

    with durably.Durably(path, jobs=[cancelling, other], max_workers=1) as app:
        with pytest.raises(durably.RunCancelledError):
            app.jobs["cancelling"].trigger_and_wait("running")
        app.stop()
        canceller = app.jobs["cancelling"].trigger("pending")
        victim = app.jobs["other"].trigger(1)
        app.start()
        assert app.wait(canceller).output == "went on"
        assert app.get_run(victim).status == "cancelled"


# -- delete and purge -------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_deleted_run_leaves_nothing(app: durably.Durably, path: Path, status: str) -> None:
    """Neither steps nor logs nor labels; ``run:delete`` reports it."""
    app.use(LogPersistence())
    run = run_of_status(app, status, labels={"a": "b"}, idempotency_key="i")
    heard = events_of(app)

    assert app.delete_run(run) is None

    assert heard == [("run:delete", run.id, {"a": "b"})]
    assert app.get_run(run) is None
    assert app.count_runs(labels={"a": "b"}) == app.count_runs() == 0
    for call in (app.get_steps, app.get_logs, app.wait, app.delete_run, app.cancel, app.retry):
        with pytest.raises(durably.NotFoundError):
            call(run)
    db = open_database(path)
    for table in ("durably_runs", "durably_steps", "durably_logs", "durably_labels"):
        assert db.execute(f"SELECT count(*) FROM {table}").get == 0
    db.close()


def test_purge_takes_terminal_runs_alone(app: durably.Durably) -> None:
    """Each is reported; pending runs stay, however old."""
    ended = {run_of_status(app, each).id for each in ("completed", "failed", "cancelled")}
    pending = app.jobs["other"].trigger(1)
    heard = events_of(app)

    assert app.purge_runs(older_than=0) == 3

    assert {run_id for type_, run_id, _ in heard if type_ == "run:delete"} == ended
    assert [run.id for run in app.get_runs()] == [pending.id]
    assert app.purge_runs(older_than=0) == 0


def test_purge_leaves_failed_runs_if_asked(app: durably.Durably) -> None:
    """For as long as somebody wants to read them; a purge without that takes them too."""
    runs = {run_of_status(app, each).id: each for each in ("failed", "completed", "cancelled")}
    assert app.purge_runs(older_than=0, keep_failed=True) == 2
    assert [runs[run.id] for run in app.get_runs()] == ["failed"]
    assert app.purge_runs(older_than=0) == 1


def test_purge_that_cannot_give_space_back_has_purged(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted is counted and emitted; a file that keeps its size is a ``worker:error``."""
    ended = run_of_status(app, "completed")
    heard: list[str] = []
    app.on("*", lambda event: heard.append(event.type))

    def refuse(most_pages: int) -> None:
        raise durably.DatabaseError("the disk is full", is_transient=True)

    monkeypatch.setattr(app._store.database.care, "shrink", refuse)
    assert app.purge_runs(older_than=0) == 1
    assert app.get_run(ended) is None
    assert heard == ["worker:error", "run:delete"]


def test_purge_spares_what_is_younger(app: durably.Durably) -> None:
    """Age counts from the end of the run, not from its trigger."""
    first = run_of_status(app, "completed")
    second = run_of_status(app, "completed")
    between = app.get_run(second).completed_at

    for older_than in ("30d", "24h", "60m", 3600, 60.0, timedelta(hours=1), timedelta.max, 1e300):
        assert app.purge_runs(older_than=older_than) == 0
    assert app.purge_runs(older_than=datetime(1, 1, 1, tzinfo=UTC)) == 0
    assert app.purge_runs(older_than=first.completed_at) == 0
    assert app.purge_runs(older_than=between) == 1
    assert [run.id for run in app.get_runs()] == [second.id]
    assert app.purge_runs(older_than=datetime.max.replace(tzinfo=UTC)) == 1


def test_purge_is_limited_and_takes_the_oldest_first(app: durably.Durably) -> None:
    """500 at once by default; the rest is for the next call."""
    runs = app.jobs["other"].batch_trigger(range(510))
    for run in runs:
        app.cancel(run)
    assert app.purge_runs(older_than=0, limit=0) == 0
    assert app.purge_runs(older_than=0, limit=3) == 3
    assert app.get_run(runs[2]) is None
    assert app.get_run(runs[3]) is not None
    assert app.purge_runs(older_than=0) == 500
    assert app.purge_runs(older_than=0) == 7


def test_a_purge_gives_the_space_back(app: durably.Durably) -> None:
    """The pages of what was deleted leave the file."""
    for _ in range(20):
        app.jobs["other"].trigger("x" * 50_000)
    assert app.run_until_idle() == 20
    before = app._store.database.read(lambda db: db.pragma("page_count"))
    assert app.purge_runs(older_than=0) == 20
    after = app._store.database.read(lambda db: db.pragma("page_count"))
    assert after < before / 4


@pytest.mark.parametrize(
    "options",
    [
        {"older_than": datetime(2020, 1, 1)},
        {"older_than": datetime(2020, 1, 1, tzinfo=Nowhere())},
        {"older_than": -1},
        {"older_than": timedelta(days=-1)},
        {"older_than": float("nan")},
        {"older_than": float("inf")},
        {"older_than": True},
        {"older_than": None},
        {"older_than": "soon"},
        {"older_than": "-1d"},
        {"older_than": 0, "limit": -1},
        {"older_than": 0, "limit": None},
        {"older_than": 0, "limit": 2.5},
        {"older_than": 0, "limit": 2**70},
        {"older_than": 0, "keep_failed": 1},
    ],
    ids=plainly,
)
def test_a_purge_without_a_clear_age_is_rejected(
    app: durably.Durably, options: dict[str, Any]
) -> None:
    """It is a ValidationError, and nothing is deleted."""
    run_of_status(app, "completed")
    with pytest.raises(durably.ValidationError):
        app.purge_runs(**options)
    assert app.count_runs() == 1
