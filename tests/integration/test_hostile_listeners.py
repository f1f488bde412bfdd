"""Listeners that do what they should not: raise what cannot be shown, call everything, block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import GRACE_S, engine

import durably
from durably.plugins import LogPersistence
from durably.testing import check


class UnshowableError(Exception):
    """Nothing can be asked of it."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def fail_unshowably(step: durably.StepContext) -> None:
    raise UnshowableError(UnshowableError())


def busy(step: durably.StepContext, payload: Any = None) -> Any:
    """A job that emits something of every kind."""
    step.progress(1, 2, "half")
    step.log.info("a line", payload=payload)
    step.run("same", int)
    if payload == "fail":
        step.run("bad", fail_unshowably, step)
    return payload


@pytest.mark.parametrize("handles", [False, True], ids=["nobody handles", "a handler raises too"])
def test_a_listener_raises_what_cannot_be_shown(tmp_path: Path, handles: bool) -> None:
    """An exception whose ``str`` and ``repr`` raise, from each listener and from the handler of
    such exceptions, harms no run and no call.
    """

    def fail(*_: Any) -> None:
        raise UnshowableError

    with engine(tmp_path, busy) as app:
        app.use(LogPersistence())
        app.on("*", fail)
        if handles:
            app.on_error(fail)
        done, failed, gone = (app.jobs["busy"].trigger(each) for each in (None, "fail", "gone"))
        app.cancel(gone)
        assert app.run_until_idle(raise_failed=False) == 2
        assert [app.get_run(run).status for run in (done, failed, gone)] == [
            "completed",
            "failed",
            "cancelled",
        ]
        assert app.get_run(failed).error.message == "<unprintable UnshowableError>"
        app.retry(failed)
        app.delete_run(gone)
        assert app.wait(done).output is None
        assert len(app.get_logs(done)) == 1
    assert check(tmp_path / "durably.db") == []


def quiet(step: durably.StepContext) -> None:
    """A job for what listeners trigger."""


# Every public call of an engine, made from inside a listener for the run of its event.
CALLS: dict[str, Callable[[durably.Durably, str], object]] = {
    "start": lambda app, _: app.start(),
    "init": lambda app, _: app.init(),
    "stop": lambda app, _: app.stop(interrupt=True),
    "close": lambda app, _: app.close(),
    "run_until_idle": lambda app, _: app.run_until_idle(),
    "process_one": lambda app, _: app.process_one(),
    "register": lambda app, _: app.register(durably.Job("quiet", quiet)),
    "get_job": lambda app, _: app.get_job("quiet"),
    "trigger": lambda app, _: app.trigger("quiet"),
    "trigger_and_wait": lambda app, _: app.trigger_and_wait("quiet", timeout=0.01),
    "batch_trigger": lambda app, _: app.batch_trigger("quiet", [None]),
    "run": lambda app, _: app.run("quiet", timeout=0.01),
    "get_run": lambda app, run_id: app.get_run(run_id),
    "get_runs": lambda app, _: app.get_runs(),
    "runs": lambda app, _: app.runs(),
    "steps": lambda app, run_id: app.steps(run_id),
    "to_dict": lambda app, _: app.to_dict(),
    "to_frame": lambda app, _: app.to_frame(),
    "count_runs": lambda app, _: app.count_runs(),
    "get_steps": lambda app, run_id: app.get_steps(run_id),
    "get_items": lambda app, run_id: app.get_items(run_id, "items"),
    "get_attempts": lambda app, run_id: app.get_attempts(run_id),
    "get_logs": lambda app, run_id: app.get_logs(run_id),
    "wait": lambda app, run_id: app.wait(run_id, timeout=0.01),
    "as_completed": lambda app, run_id: list(app.as_completed([run_id], timeout=0.01)),
    "adopt": lambda app, run_id: app.adopt(run_id),
    "retry": lambda app, run_id: app.retry(run_id),
    "retrigger": lambda app, run_id: app.retrigger(run_id),
    "cancel": lambda app, run_id: app.cancel(run_id),
    "redo": lambda app, run_id: app.redo(run_id),
    "fork": lambda app, run_id: app.fork(run_id),
    "set_step": lambda app, run_id: app.set_step(run_id, "same", 1),
    "set_item": lambda app, run_id: app.set_item(run_id, "items", 0, 1),
    "plan": lambda app, run_id: app.plan(run_id),
    "answer": lambda app, run_id: app.answer(run_id, "q", 1),
    "signal": lambda app, _: app.signal("ticket", 1),
    "get_questions": lambda app, _: app.get_questions(),
    "delete_run": lambda app, run_id: app.delete_run(run_id),
    "purge_runs": lambda app, _: app.purge_runs(older_than=0),
    "backup": lambda app, _: app.backup(f"{app._store.path}.copy", overwrite=True),
    "vacuum": lambda app, _: app.vacuum(),
    "on": lambda app, _: app.on("run:start", lambda event: None)(),
    "on_error": lambda app, _: app.on_error(lambda exc, event: None)(),
    "subscribe": lambda app, run_id: (
        next(app.subscribe(run_id).__enter__(), None)
        if app.get_run(run_id).is_terminal
        else app.subscribe(run_id).__exit__(None, None, None)
    ),
    "use": lambda app, _: app.use(LogPersistence()),
    "jobs": lambda app, _: app.jobs["quiet"].batch_trigger([None, None]),
}


def test_every_call_of_an_engine_is_made_from_a_listener() -> None:
    """The next test leaves out no public member of an engine."""
    assert {name for name in dir(durably.Durably) if not name.startswith("_")} == CALLS.keys()


@pytest.mark.parametrize("call", CALLS)
def test_a_listener_calls_the_engine_at_every_event(
    tmp_path: Path, call: str, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """Any call at any event does what it says or is rejected with one of durably's errors; it never
    hangs, and the runs come to an end.
    """
    inside = threading.local()
    refusals: list[BaseException] = []
    heard: list[str] = []

    def meddle(event: Any) -> None:
        if getattr(inside, "is_listening", False) or event.type == "worker:error":
            return
        if len(heard) > 100:
            return  # what it causes itself would go on for ever
        inside.is_listening = True
        try:
            heard.append(event.type)
            CALLS[call](app, event.run_id)
        except durably.DurablyError as exc:
            refusals.append(exc)
        finally:
            inside.is_listening = False

    with engine(tmp_path, busy, quiet, max_workers=2) as app:
        raised: list[BaseException] = []
        app.on("*", meddle)
        app.on_error(lambda exc, event: raised.append(exc))
        app.start()
        handle = app.jobs["busy"]
        runs = [handle.trigger(each, labels={"n": "1"}) for each in (None, "fail", None)]
        eventually(lambda: not app.count_runs(status=["pending", "running"]))
        app.stop()
        assert raised == []
        if call not in ("cancel", "delete_run", "purge_runs", "retry"):
            told = {"run:start", "step:complete", "run:complete", "run:fail"}
            assert told <= set(heard) or call == "process_one"  # whose own are not listened to
            ended = [app.get_run(run).status for run in runs]
            assert ended == ["completed", "failed", "completed"]
        assert {type(exc) for exc in refusals} <= {
            durably.ConflictError,
            durably.NotFoundError,
            durably.WaitTimeoutError,
            durably.RunFailedError,
            durably.RunCancelledError,
        }
        if call in ("stop", "close"):
            assert len(refusals) > 10
    assert check(tmp_path / "durably.db") == []


def test_a_listener_that_causes_its_own_event_ends_by_itself(tmp_path: Path) -> None:
    """One that triggers a run at each ``run:trigger`` comes to the end of Python's stack, which is
    its own exception; what was stored on the way is there, and the engine goes on.
    """
    with engine(tmp_path, quiet) as app:
        raised: list[BaseException] = []
        app.on_error(lambda exc, event: raised.append(exc))
        stop = app.on("run:trigger", lambda event: app.jobs["quiet"].trigger())
        first = app.jobs["quiet"].trigger()
        stop()
        assert any(isinstance(exc, RecursionError) for exc in raised)
        count = app.count_runs()
        assert count > 10
        assert app.run_until_idle() == count
        assert app.get_run(first).status == "completed"
        assert not app._emitter.is_inside_listener
    assert check(tmp_path / "durably.db") == []


def test_a_listener_that_never_returns_holds_up_its_own_run_alone(tmp_path: Path) -> None:
    """A stop with a timeout gives up on it, with an error that says so; a later one succeeds."""
    leave, blocked = threading.Event(), threading.Event()

    def block(event: Any) -> None:
        blocked.set()
        assert leave.wait(GRACE_S)

    with engine(tmp_path, quiet) as app:
        stop = app.on("run:start", block)
        app.start()
        held = app.jobs["quiet"].trigger()
        assert blocked.wait(GRACE_S)
        stop()
        assert app.jobs["quiet"].trigger_and_wait(timeout=GRACE_S).status == "completed"
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(timeout=0.01)
        assert app.get_run(held).status == "running"
        leave.set()
        app.stop()
        assert app.get_run(held).status == "completed"
    assert check(tmp_path / "durably.db") == []


@pytest.mark.parametrize(
    "listener",
    [None, 7, "print", object(), UnshowableError()],
    ids=lambda each: type(each).__name__,
)
def test_what_cannot_be_called_is_rejected(tmp_path: Path, listener: Any) -> None:
    """What is no listener, handler or callback is a ValidationError, whatever its repr does."""
    with engine(tmp_path, quiet) as app:
        run = app.jobs["quiet"].trigger()
        refused: list[Callable[[], object]] = [
            lambda: app.on_error(listener),
            lambda: app.wait(run, timeout=0, on_progress=listener),
            lambda: app.wait(run, timeout=0, on_log=listener),
            lambda: app.on(listener, print),
            lambda: app.use(listener),
        ]
        if listener is not None:  # without one, `on` is a decorator, and `wait` tells nobody
            refused.append(lambda: app.on("run:start", listener))
        else:
            del refused[1:3]
        for call in refused:
            with pytest.raises(durably.ValidationError):
                call()
