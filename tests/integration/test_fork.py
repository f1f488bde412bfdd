"""os.fork: the child may not use the parent's engine, and opens its own."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import in_thread
from children import Child, execute

import durably
from durably import Durably, ForkedError, RunStatus
from durably.store.sqlite.sql import enqueue as enqueueing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_S = 60  # only guards against hanging

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")


@durably.job
def quick(step: durably.StepContext) -> int:
    return step.run("only", os.getpid)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[quick])
    yield app
    app.close()


def in_fork(function: Callable[[], Any]) -> str:
    """What *function* gives in a forked child, as text; it must not raise."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                said = repr(function())
            except BaseException:
                said = traceback.format_exc()
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def raised_by(call: Callable[[], Any]) -> str:
    try:
        call()
    except BaseException as exc:
        return type(exc).__name__
    return "nothing"


def test_a_child_may_fork(app: Durably) -> None:
    """Nothing of the parent's engine keeps it from that, nor its children from an engine."""

    def run_again() -> list[str]:
        return [in_fork(lambda: raised_by(app.get_runs)), in_fork(lambda: "no engine")]

    app.start()
    before = app.jobs["quick"].trigger_and_wait(timeout=HANG_S).output
    assert in_fork(run_again) == repr([repr("ForkedError"), repr("no engine")])
    assert app.jobs["quick"].trigger_and_wait(timeout=HANG_S).output == before


def test_any_call_raises_in_the_child(app: Durably) -> None:
    """Every public call on the parent's engine, its handles and iterators raises ForkedError."""
    app.start()
    handle = app.jobs["quick"]
    run = handle.trigger_and_wait(timeout=HANG_S)
    waiting = app.as_completed([run])

    class Plugin:
        name = "plugin"

        def install(self, app: Any) -> None:
            """Nothing."""

    calls: dict[str, Callable[[], Any]] = {
        "start": app.start,
        "init": app.init,
        "stop": app.stop,
        "close": app.close,
        "enter": app.__enter__,
        "run_until_idle": app.run_until_idle,
        "process_one": app.process_one,
        "register": lambda: app.register(quick),
        "jobs": lambda: app.jobs,
        "get_job": lambda: app.get_job("quick"),
        "get_run": lambda: app.get_run(run),
        "get_runs": app.get_runs,
        "count_runs": app.count_runs,
        "get_steps": lambda: app.get_steps(run),
        "get_logs": lambda: app.get_logs(run),
        "wait": lambda: app.wait(run, timeout=1),
        "as_completed": lambda: list(app.as_completed([run])),
        "an iterator": lambda: next(waiting),
        "retry": lambda: app.retry(run),
        "retrigger": lambda: app.retrigger(run),
        "cancel": lambda: app.cancel(run),
        "answer": lambda: app.answer(run, "q", 1),
        "signal": lambda: app.signal("ticket", 1),
        "get_questions": app.get_questions,
        "delete_run": lambda: app.delete_run(run),
        "purge_runs": lambda: app.purge_runs(older_than=0),
        "on": lambda: app.on("*", print),
        "on_error": lambda: app.on_error(print),
        "subscribe": lambda: app.subscribe(run),
        "use": lambda: app.use(Plugin()),
        "trigger": handle.trigger,
        "trigger_and_wait": handle.trigger_and_wait,
        "batch_trigger": lambda: handle.batch_trigger([None]),
        "handle.get_run": lambda: handle.get_run(run),
        "handle.get_runs": handle.get_runs,
    }
    said = in_fork(lambda: {name: raised_by(call) for name, call in calls.items()})
    assert said == repr(dict.fromkeys(calls, "ForkedError"))

    # The parent has noticed nothing.
    assert handle.trigger_and_wait(timeout=HANG_S).output == os.getpid()
    assert app.count_runs() == 2


def test_the_message_says_what_to_do(app: Durably) -> None:
    """ForkedError names the database and says to open a new engine in the child."""

    def message() -> str:
        with pytest.raises(ForkedError) as caught:
            app.get_runs()
        return str(caught.value)

    said = in_fork(message)
    assert "x.db" in said
    assert "open a new one in the child" in said


def test_leaving_the_block_in_the_child_harms_nobody(tmp_path: Path) -> None:
    """A child that falls out of the parent's with block leaves the parent's engine alone."""

    def leave(app: Durably) -> str:
        app.__exit__(None, None, None)
        app.__exit__(ValueError, ValueError(), None)
        return "left"

    with Durably(tmp_path / "x.db", jobs=[quick]) as app:
        assert in_fork(lambda: leave(app)) == "'left'"
        assert app.jobs["quick"].trigger_and_wait(timeout=HANG_S).status is RunStatus.COMPLETED


def test_the_child_opens_its_own(app: Durably) -> None:
    """An engine that the child opens on the same file works, beside the parent's."""
    app.start()
    path = app._store.database.path

    def own() -> tuple[str, bool]:
        with Durably(path, jobs=[quick]) as mine:
            run = mine.jobs["quick"].trigger_and_wait(timeout=HANG_S)
            return run.status.value, run.attempt == 1

    assert in_fork(own) == "('completed', True)"
    assert app.count_runs(status="completed") == 1
    assert app.jobs["quick"].trigger_and_wait(timeout=HANG_S).output == os.getpid()


@pytest.mark.parametrize("module", ["run_execution", "step_calls", "waiting"])
def test_the_child_opens_its_own_when_the_parent_has_just_started(
    tmp_path: Path, module: str
) -> None:
    """A thread of the parent imports modules then, and the child needs the same ones."""
    paths = tmp_path / "x.db", tmp_path / "child.db"
    said = execute("forks_at_start", *paths, f"durably.execution.{module}")
    assert said.stdout.split() == ["done", "done"], said.stderr


def test_a_forked_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """The parent dies while a forked child lives on: its run is recovered at once."""
    with Child("forks_and_dies", tmp_path / "x.db") as parent:
        child = int(parent.line())
        assert parent.wait() == -signal.SIGKILL
        os.kill(child, 0)  # it lives

        @durably.job("long", origin="any")
        def long(step):
            return step.run("first", lambda: "again")

        with Durably(tmp_path / "x.db", jobs=[long], stale_threshold=9999) as app:
            (run,) = app.get_runs()
            ended = app.wait(run, timeout=HANG_S)
        assert (ended.output, ended.attempt) == (1, 2)
        parent.end_input()  # ends the child


def test_a_fork_waits_for_the_transaction_in_progress(
    app: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child never inherits half of one: it is forked before it begins, or after its commit."""
    inside, go, forked = threading.Event(), threading.Event(), threading.Event()
    enqueue = enqueueing.enqueue

    def slow(*args: Any) -> Any:
        result = enqueue(*args)
        inside.set()
        assert go.wait(HANG_S)
        return result

    monkeypatch.setattr(enqueueing, "enqueue", slow)
    handle = app.jobs["quick"]
    path = app._store.database.path

    def trigger() -> None:
        handle.trigger(idempotency_key="k")

    def count_in_child() -> int:
        mine = Durably(path)
        try:
            return mine.count_runs()
        finally:
            mine.close()

    said: list[str] = []

    def fork() -> None:
        said.append(in_fork(count_in_child))
        forked.set()

    triggering, forking = threading.Thread(target=trigger), threading.Thread(target=fork)
    triggering.start()
    assert inside.wait(HANG_S)
    forking.start()
    # Had the fork not waited, its child would count while the insert is not committed.
    assert not forked.wait(0.3)
    go.set()
    triggering.join(HANG_S)
    forking.join(HANG_S)
    assert said == ["1"]


def test_a_fork_waits_for_the_read_in_progress(app: Durably) -> None:
    """The child never inherits a lock inside of SQLite that a thread had taken for its read."""
    reading, go_on, forked = threading.Event(), threading.Event(), threading.Event()

    def query(db: Any) -> None:
        reading.set()
        assert go_on.wait(HANG_S)
        assert not forked.is_set(), "forked in the middle of a read"

    reader, read = in_thread(lambda: app._store.database.read(query))
    assert reading.wait(HANG_S)

    def fork() -> str:
        result = in_fork(lambda: "forked")
        forked.set()
        return result

    forker, outcome = in_thread(fork)
    # It is blocked: no other read begins any more.
    deadline = time.monotonic() + HANG_S
    while not app._store.database._versions.lock.locked():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    go_on.set()
    for thread in (reader, forker):
        thread.join(HANG_S)
    assert (read, outcome) == ([None], [repr("forked")])
    assert app.count_runs() == 0


def test_many_forks_while_the_engine_works(app: Durably) -> None:
    """Forks at any moment leave the parent's runs whole, and each child can open its own."""
    app.start()
    triggered = app.jobs["quick"].batch_trigger([None] * 60)
    path = app._store.database.path

    def count() -> int:
        mine = Durably(path)
        try:
            return mine.count_runs()
        finally:
            mine.close()

    assert {in_fork(count) for _ in range(8)} == {"60"}
    assert {run.output for run in app.as_completed(triggered, timeout=HANG_S)} == {os.getpid()}


@pytest.mark.parametrize("ending", ["sys.exit", "SystemExit"])
def test_a_child_that_ends_as_a_script_does(tmp_path: Path, ending: str) -> None:
    """The exit of a forked child neither hangs nor touches the parent's runs and locks."""
    # Python 3.12 warns of a fork where there are threads, which is the subject.
    options = ["-W", "ignore::DeprecationWarning"]
    done = execute("forks_a_script", tmp_path / "x.db", ending, options=options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def test_a_step_may_fork_if_its_child_ends(app: Durably) -> None:
    """A child that a step forks and that ends itself harms neither the run nor the engine."""

    @durably.job
    def forking(step):
        def fork() -> int:
            child = os.fork()
            if child == 0:
                os._exit(5)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        return step.run("fork", fork)

    app.start()
    run = app.register(forking).trigger_and_wait(timeout=HANG_S)
    assert run.output == 5


def test_a_step_whose_child_comes_back(tmp_path: Path) -> None:
    """The copy of the job is rejected in the child and ends; the parent stores its step once."""
    done = execute("forks_in_a_step", tmp_path / "x.db")
    assert (done.returncode, done.stdout) == (0, "True 1\n"), done.stderr


def test_a_stored_step_in_a_child_that_the_job_has_forked(app: Durably) -> None:
    """It is rejected there as well, though it stores nothing."""
    said = []

    @durably.job(retry=durably.Retry(attempts=2, wait=0))
    def forking(step):
        if said:
            said.append(in_fork(lambda: step.run("stored", int)))
        assert step.run("stored", int) == 0
        if not said:
            said.append("")
            raise ValueError

    app.start()
    app.register(forking).trigger_and_wait(timeout=HANG_S)
    assert "ForkedError" in said[1]


def test_child_may_leave_a_subscription_of_the_parent(app: Durably) -> None:
    """Another thread was just beginning to listen when it was forked."""
    subscription = app.subscribe(app.jobs["quick"].trigger())
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with app._emitter._lock:
            inside.set()
            assert go_on.wait(HANG_S)

    holder, _ = in_thread(hold)
    assert inside.wait(HANG_S)
    try:
        assert in_fork(subscription.close) == "None"
    finally:
        go_on.set()
        holder.join(HANG_S)
        subscription.close()
