"""wait, as_completed and trigger_and_wait within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S, Call, in_thread
from engines import whole
from held import HeldJob, finish, other

import durably
from durably.client.callbacks import Callbacks
from durably.plugins import LogPersistence
from durably.store.outcome import OwnerDead
from durably.store.sqlite.sql import requeue

Eventually = Callable[[Callable[[], object]], None]


@durably.job
def telling(step: durably.StepContext, payload: int) -> int:
    """Progress and log lines, then the payload."""
    for number in range(payload):
        message = f"line {number + 1}"
        step.progress(number + 1, payload, f"at {number + 1}")
        step.log.info(message, number=number + 1)
    return payload


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """A started engine."""
    with durably.Durably(tmp_path / "durably.db", jobs=[finish, other, telling]) as opened:
        yield opened


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[finish, other, telling])
    yield opened
    opened.close()


# -- what comes back ------------------------------------------------------------------------


def test_wait_returns_the_completed_run(app: durably.Durably) -> None:
    """By run or id, before and after its end; a run that was read has no disposition."""
    run = app.jobs["other"].trigger([1])
    done = app.wait(run)
    assert (done.status, done.output, done.disposition) == ("completed", [1], None)
    assert whole(app.wait(run.id, timeout=0)) == whole(done) == whole(app.get_run(run))


def test_wait_raises_for_a_failed_run(app: durably.Durably) -> None:
    """RunFailedError carries the run and shows its error."""
    run = app.jobs["finish"].trigger("fail")
    with pytest.raises(durably.RunFailedError, match="as it was told") as caught:
        app.wait(run)
    assert whole(caught.value.run) == whole(app.get_run(run))
    assert str(caught.value.run.error) == "ValueError: as it was told"


def test_wait_raises_for_a_cancelled_run(app: durably.Durably) -> None:
    """RunCancelledError carries the run, though its job is still inside a step."""
    with HeldJob() as held:
        run = app.register(held.job).trigger(1)
        held.inside()
        waiting = Call(lambda: app.wait(run))
        app.cancel(run)
        error = waiting.result()
        assert isinstance(error, durably.RunCancelledError)
        assert (error.run.id, error.run.status) == (run.id, "cancelled")


@pytest.mark.parametrize("timeout", [0, 0.01, timedelta(milliseconds=10)])
def test_a_timeout_leaves_the_run_alone(app: durably.Durably, timeout: Any) -> None:
    """WaitTimeoutError is a TimeoutError that names the run; the run goes on."""
    with HeldJob() as held:
        run = app.register(held.job).trigger(1)
        held.inside()
        with pytest.raises(durably.WaitTimeoutError, match=run.id) as caught:
            app.wait(run, timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(durably.WaitTimeoutError):
            list(app.as_completed([run], timeout=timeout))
        with pytest.raises(durably.WaitTimeoutError):
            app.jobs["held"].trigger_and_wait(2, timeout=timeout)
        assert app.get_run(run).status == "running"
        held.let_go(2)
        assert app.wait(run).output == 1


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True, timedelta(seconds=-1)])
def test_a_timeout_that_is_none_is_rejected(app: durably.Durably, timeout: Any) -> None:
    """Before anything is stored or waited for."""
    run = app.jobs["other"].trigger(1)
    for call in (
        lambda: app.wait(run, timeout=timeout),
        lambda: app.as_completed([run], timeout=timeout),
        lambda: app.jobs["other"].trigger_and_wait(1, timeout=timeout),
    ):
        with pytest.raises(durably.ValidationError, match="timeout"):
            call()
    assert app.count_runs() == 1


@pytest.mark.parametrize("name", ["on_progress", "on_log"])
def test_a_callback_that_cannot_be_called_is_rejected(app: durably.Durably, name: str) -> None:
    """Before anything is stored."""
    with pytest.raises(durably.ValidationError, match=name):
        app.jobs["other"].trigger_and_wait(1, **{name: 5})
    assert app.count_runs() == 0


def test_trigger_and_wait_reports_how_it_was_resolved(app: durably.Durably) -> None:
    """The run it returns, or that its error carries, has the disposition."""
    handle = app.jobs["finish"]
    assert handle.trigger_and_wait(1, idempotency_key="i").disposition == "created"
    assert handle.trigger_and_wait(1, idempotency_key="i").disposition == "idempotent"
    for retry_failed, expected in ((False, "created"), (False, "idempotent"), (True, "retried")):
        with pytest.raises(durably.RunFailedError) as caught:
            handle.trigger_and_wait("fail", idempotency_key="f", retry_failed=retry_failed)
        assert caught.value.run.disposition == expected


def test_trigger_and_wait_may_join_a_pending_run(app: durably.Durably) -> None:
    """It waits for the run it has joined."""
    is_joined = threading.Event()
    app.on("run:coalesced", lambda _: is_joined.set())
    with HeldJob() as held:
        handle = app.register(held.job)
        handle.trigger(1, concurrency_key="c")
        held.inside()
        pending = handle.trigger(2, concurrency_key="c")
        waiting = Call(lambda: handle.trigger_and_wait(3, concurrency_key="c", coalesce=True))
        assert is_joined.wait(20)
        held.let_go(2)
        joined = waiting.result()
    assert (joined.id, joined.output, joined.disposition) == (pending.id, 2, "coalesced")


def test_many_threads_may_wait_for_one_run(app: durably.Durably) -> None:
    """Each of them gets it."""
    with HeldJob() as held:
        run = app.register(held.job).trigger(1)
        waiting = [Call(lambda: app.wait(run)) for _ in range(8)]
        held.inside()
        held.let_go()
        assert {each.result().id for each in waiting} == {run.id}


def test_a_run_that_is_deleted_meanwhile_is_not_found(app: durably.Durably) -> None:
    """A waiter that did not see its end gets NotFoundError."""
    is_told, is_deleted = threading.Event(), threading.Event()

    @durably.job
    def reporting(step: durably.StepContext) -> None:
        step.progress(1)
        is_told.wait(20)

    def on_progress(_: durably.Progress) -> None:
        is_told.set()
        is_deleted.wait(20)

    run = app.register(reporting).trigger()
    waiting = Call(lambda: app.wait(run, on_progress=on_progress))
    app.wait(run)
    app.delete_run(run)
    is_deleted.set()
    assert isinstance(waiting.result(), durably.NotFoundError)


# -- as_completed -----------------------------------------------------------------------------


def test_as_completed_yields_runs_as_they_end(app: durably.Durably) -> None:
    """Failed and cancelled ones too, each once, in the order of their ends."""
    with HeldJob("one") as one, HeldJob("two") as two:
        first = app.register(one.job).trigger(1)
        second = app.register(two.job).trigger(2)
        failed = app.jobs["finish"].trigger("fail")
        found = app.as_completed([first, second.id, failed, first, first.id])
        assert (next(found).id, app.get_run(failed).status) == (failed.id, "failed")
        two.let_go()
        ended = next(found)
        assert (ended.id, ended.output, ended.is_terminal) == (second.id, 2, True)
        one.inside()
        app.cancel(first)
        assert next(found).status == "cancelled"
        assert list(found) == []


def test_as_completed_takes_the_keys_of_a_mapping(idle: durably.Durably) -> None:
    """Runs or ids that lead to what they are about, as with the futures of concurrent.futures."""
    words = {idle.jobs["other"].trigger(word).id: word for word in ("a", "b")}
    assert idle.run_until_idle() == 2
    assert {words[run.id]: run.output for run in idle.as_completed(words)} == {"a": "a", "b": "b"}
    runs = {idle.get_run(run_id): word for run_id, word in words.items()}
    assert {run.id for run in idle.as_completed(runs)} == set(words)


def test_as_completed_of_nothing_is_empty(idle: durably.Durably) -> None:
    """It needs neither a worker nor time."""
    assert list(idle.as_completed([])) == []
    assert list(idle.as_completed(iter([]), timeout=0)) == []


def test_as_completed_may_be_used_while_runs_are_deleted(app: durably.Durably) -> None:
    """A run that was yielded is not read again."""
    runs = app.jobs["other"].batch_trigger(range(20))
    for run in app.as_completed(runs):
        app.delete_run(run)
    assert app.count_runs() == 0


def test_a_run_deleted_before_it_was_yielded_is_not_found(app: durably.Durably) -> None:
    """as_completed cannot give it any more."""
    with HeldJob() as held:
        first = app.jobs["other"].trigger_and_wait(1)
        second = app.register(held.job).trigger(2)
        found = app.as_completed([first, second])
        assert next(found).id == first.id
        held.let_go()
        app.wait(second)
        app.delete_run(second)
        with pytest.raises(durably.NotFoundError, match=second.id):
            next(found)


def test_as_completed_yields_what_has_ended_before_its_time_is_over(app: durably.Durably) -> None:
    """With a timeout of zero what has ended comes first, then WaitTimeoutError."""
    with HeldJob() as held:
        ended = app.jobs["other"].trigger_and_wait(1)
        running = app.register(held.job).trigger(1)
        found = app.as_completed([running, ended], timeout=0)
        assert whole(next(found)) == whole(app.get_run(ended))
        with pytest.raises(durably.WaitTimeoutError, match="1 of 2"):
            next(found)


# -- callbacks ----------------------------------------------------------------------------------


def test_trigger_and_wait_reports_progress_and_logs_in_the_waiting_thread(
    app: durably.Durably,
) -> None:
    """Every log line in order, and progress up to the last one."""
    progress: list[durably.Progress] = []
    lines: list[durably.LogEntry] = []
    threads: set[int] = set()

    def on_progress(each: durably.Progress) -> None:
        threads.add(threading.get_ident())
        progress.append(each)

    def on_log(each: durably.LogEntry) -> None:
        threads.add(threading.get_ident())
        lines.append(each)

    app.jobs["telling"].trigger_and_wait(50, on_progress=on_progress, on_log=on_log)

    assert progress[-1] == durably.Progress(50, 50, "at 50")
    assert [each.current for each in progress] == sorted({each.current for each in progress})
    assert [line.message for line in lines] == [f"line {n}" for n in range(1, 51)]
    assert (lines[0].level, lines[0].data, lines[0].step_name) == ("info", {"number": 1}, None)
    assert threads == {threading.get_ident()}


def test_log_lines_come_once_though_they_are_persisted(app: durably.Durably) -> None:
    """What this process hears and what the database has are not both reported."""
    app.use(LogPersistence())
    lines: list[str] = []
    run = app.jobs["telling"].trigger_and_wait(20, on_log=lambda line: lines.append(line.message))
    assert lines == [f"line {n}" for n in range(1, 21)]
    assert [line.message for line in app.get_logs(run)] == lines


def test_wait_reports_what_comes_after_its_start(
    app: durably.Durably, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress and lines from before the wait are no news, those of other runs never."""
    has_begun = threading.Event()
    skip_progress = Callbacks.skip_progress

    def skip_and_tell(*args: Any) -> None:
        skip_progress(*args)
        has_begun.set()

    monkeypatch.setattr(Callbacks, "skip_progress", skip_and_tell)

    @durably.job
    def staged(step: durably.StepContext) -> None:
        step.progress(1)
        step.log.info("early")
        has_begun.wait(20)
        app.jobs["telling"].trigger(3)
        step.progress(2)
        step.log.info("late")

    run = app.register(staged).trigger()
    eventually(lambda: app.get_run(run).progress is not None)
    progress: list[Any] = []
    lines: list[Any] = []
    assert app.wait(run, on_progress=progress.append, on_log=lines.append).id == run.id
    assert [each.current for each in progress] == [2]
    assert [line.message for line in lines] == ["late"]


def test_progress_made_since_the_trigger_is_reported(app: durably.Durably) -> None:
    """Also of a retried run, however fast it was; what it had reported before is not."""
    fails = [True]

    @durably.job
    def flaky(step: durably.StepContext) -> None:
        if fails.pop():
            step.progress(1, 2)
            raise ValueError("the first time")
        step.progress(2, 2)

    handle = app.register(flaky)
    fails.append(True)
    with pytest.raises(durably.RunFailedError):
        handle.trigger_and_wait(idempotency_key="i")
    fails[:] = [False]
    ended = threading.Event()
    app.on("run:complete", lambda _: ended.set())
    # The trigger returns only when the run has ended.
    has_ended: list[bool] = []
    app.on("run:retry", lambda _: has_ended.append(ended.wait(20)))
    progress: list[durably.Progress] = []

    handle.trigger_and_wait(idempotency_key="i", retry_failed=True, on_progress=progress.append)
    handle.trigger_and_wait(idempotency_key="i", on_progress=progress.append)

    assert has_ended == [True]
    assert progress == [durably.Progress(2, 2)]


def test_what_a_callback_raises_harms_nobody(app: durably.Durably) -> None:
    """It goes to the error handlers with an event, like a listener's; the wait goes on."""
    errors: list[tuple[str, str]] = []
    app.on_error(lambda exc, event: errors.append((str(exc), event.type)))

    def on_log(line: durably.LogEntry) -> None:
        raise ValueError(line.message)

    def on_progress(progress: durably.Progress) -> None:
        raise ValueError(progress.message)

    run = app.jobs["telling"].trigger_and_wait(2, on_log=on_log, on_progress=on_progress)

    assert run.output == 2
    assert ("line 1", "log:write") in errors
    assert ("line 2", "log:write") in errors
    assert ("at 2", "run:progress") in errors


def test_a_wait_leaves_no_listener(app: durably.Durably) -> None:
    """However it ends."""
    app.jobs["telling"].trigger_and_wait(1, on_log=print)
    with pytest.raises(durably.NotFoundError):
        app.wait("nobody", on_log=print)
    with pytest.raises(durably.ValidationError):
        app.jobs["telling"].trigger_and_wait("bad", on_log=print)
    assert not app._emitter._listeners.get("log:write")


def test_a_wait_ends_with_its_engine(idle: durably.Durably) -> None:
    """Closed from another thread, every kind of wait raises EngineClosedError."""
    run = idle.jobs["other"].trigger(1)
    waiting = [
        Call(lambda: idle.wait(run, timeout=60)),
        Call(lambda: list(idle.as_completed([run], timeout=60))),
    ]
    idle.close()
    for each in waiting:
        assert isinstance(each.result(), durably.EngineClosedError)
    with pytest.raises(durably.EngineClosedError):
        idle.wait(run)


def test_a_job_may_wait_for_others(app: durably.Durably) -> None:
    """It holds its own slot meanwhile, and gets what they return."""

    @durably.job
    def gathering(step: durably.StepContext) -> list[int]:
        runs = app.jobs["other"].batch_trigger([1, 2, 3])
        found = sorted(run.output for run in app.as_completed(runs))
        return [*found, app.jobs["other"].trigger_and_wait(4).output]

    assert app.register(gathering).trigger_and_wait(timeout=20).output == [1, 2, 3, 4]


def test_log_lines_are_reported_once_though_the_owner_was_renewed(
    tmp_path: Path, eventually: Eventually
) -> None:
    """Others took this engine for dead, and its run is executed again: each attempt's once."""
    held = HeldJob()

    @durably.job("logs")
    def logs(step: durably.StepContext) -> None:
        step.log.info("a line")
        held.run(step)

    with durably.Durably(
        tmp_path / "x.db", jobs=[logs], heartbeat_interval=1000, stale_threshold=2000
    ) as app:
        app.use(LogPersistence())
        lines: list[str] = []
        waiting, outcome = in_thread(
            lambda: app.jobs["logs"].trigger_and_wait(
                on_log=lambda line: lines.append(line.message)
            )
        )
        held.inside()
        [run] = app.get_runs()
        eventually(lambda: lines and app.get_logs(run))
        owner = app._supervisor.local.owner
        app._store.database.write(requeue.requeue, OwnerDead(owner), 1)
        app._supervisor._heartbeat.tick()
        assert app._supervisor.local.owner != owner
        held.let_all_go()
        waiting.join(HANG_S)
    assert [run.attempt for run in outcome] == [2]
    assert lines == ["a line"] * 2
