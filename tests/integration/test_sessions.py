"""A session: a script without a job, whose steps are stored while it is executed."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S, in_thread
from children import Child
from invariants import check

import durably
from durably import RunStatus
from durably.entry.open_sessions import open_here


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture(autouse=True)
def _no_session_is_left() -> Any:
    yield
    left = [each.name for each in open_here.values()]
    for each in tuple(open_here.values()):
        each.hand_over()
    assert not left


def status_of(db: Path, run_id: str) -> RunStatus:
    with durably.Durably(db) as app:
        run = app.get_run(run_id)
        assert run is not None
        return run.status


def use(step: durably.Session, *names: str) -> list[str]:
    """Use steps of these names; return those that were executed."""
    executed: list[str] = []
    for name in names:
        step.run(name, executed.append, name)
    return executed


# -- how it is left ------------------------------------------------------------------------------


def test_a_session_is_open_when_it_is_made_and_completes_with_its_block(db: Path) -> None:
    """It is a run of its kind, running while it is open, and completed afterwards."""
    step = durably.session("import", db, labels={"a": "b"})
    assert isinstance(step, durably.StepContext)
    run = step.get_run()
    assert (run.id, run.kind, run.job_name) == (step.run_id, "session", "import")
    assert (run.status, run.labels, run.idempotency_key) == ("running", {"a": "b"}, None)
    with step as entered:
        assert entered is step
        assert step.run("add", lambda a, b: a + b, 1, b=2) == 3
        step.progress(1, 2)
    run = step.get_run()
    assert (run.status, run.output, run.completed_steps) == ("completed", None, 1)
    assert run.progress == durably.Progress(1, 2)
    assert repr(step) == "<Session 'import' closed>"
    assert check(db, is_idle=True) == []


@pytest.mark.parametrize("exc", [ValueError("no"), ExceptionGroup("g", [ValueError()])])
def test_an_exception_fails_it_and_goes_on_to_the_caller(
    db: Path, exc: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets its own exception, and the run records it with the step that raised it."""

    def fail() -> None:
        raise exc

    with pytest.raises(type(exc)) as raised, durably.session("import", db) as step:
        use(step, "a")
        step.run("b", fail)
    assert raised.value is exc
    run = step.get_run()
    assert (run.status, run.completed_steps) == ("failed", 1)
    assert run.error is not None
    assert run.error.type == type(exc).__name__
    assert "fail" in run.error.traceback
    assert "Fix the cause, then open the session again" in caplog.text
    assert "Fix the cause and start it again: it continues at 'b'" in exc.__notes__[-1]
    assert check(db, is_idle=True) == []


@pytest.mark.parametrize(
    "exc", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), durably.StopRun()]
)
@pytest.mark.parametrize("is_in_step", [False, True])
def test_what_ends_a_program_leaves_it_pending(
    db: Path, exc: BaseException, is_in_step: bool
) -> None:
    """Ctrl-C and exits go on to the caller, and the next opening goes on with the checkpoints."""

    def end() -> None:
        raise exc

    with pytest.raises(type(exc)) as raised, durably.session("import", db) as step:
        use(step, "a")
        if is_in_step:
            step.run("b", end)
        end()
    assert raised.value is exc
    assert step.get_run().status == "pending"
    with durably.session("import", db) as again:
        assert again.run_id == step.run_id
        assert use(again, "a", "b") == ["b"]
    assert check(db, is_idle=True, is_finished=True) == []


def test_close_leaves_it_pending(db: Path) -> None:
    """It may be called twice, and a block that it was called in changes nothing more."""
    with durably.session("import", db) as step:
        use(step, "a")
        step.close()
        step.close()
    assert step.get_run().status == "pending"
    assert check(db, is_idle=True) == []


# -- what is opened ------------------------------------------------------------------------------


def failing(step: durably.Session) -> None:
    with pytest.raises(ZeroDivisionError), step:
        use(step, "a")
        step.run("b", lambda: 1 / 0)


def closed(step: durably.Session) -> None:
    use(step, "a")
    step.close()


def cancelled(step: durably.Session) -> None:
    closed(step)
    with durably.Durably(step._parts.store.path) as app:
        app.cancel(step.run_id)


@pytest.mark.parametrize("is_in_step", [False, True])
def test_an_interrupt_has_a_note_of_what_is_kept(db: Path, is_in_step: bool) -> None:
    """It says in which step it was, and how to go on."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised, durably.session("import", db) as step:
        use(step, "a", "b")
        if is_in_step:
            step.run("outer", step.run, "inner", interrupt)
        interrupt()
    place = " in step 'inner'" if is_in_step else ""
    assert raised.value.__notes__ == [
        f"stopped{place}; 2 completed steps are kept. Start it again to go on."
    ]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("leave", "attempt"), [(failing, 2), (closed, 1), (cancelled, 2)])
def test_one_that_has_not_completed_is_continued(
    db: Path, leave: Callable[[durably.Session], None], attempt: int, key: str | None
) -> None:
    """Whatever has ended it, its checkpoints are used; one that was closed has not ended."""
    first = durably.session("import", db, key=key)
    leave(first)
    with durably.session("import", db, key=key) as again:
        assert again.run_id == first.run_id
        assert again.attempt == attempt
        assert use(again, "a", "b") == ["b"]
    assert again.get_run().status == "completed"
    assert check(db, is_idle=True, is_finished=True) == []


def test_after_a_completed_one_a_new_one_begins(db: Path) -> None:
    """Without a key, what is completed is done."""
    with durably.session("import", db) as first:
        use(first, "a")
    with durably.session("import", db) as second:
        assert use(second, "a") == ["a"]
    assert second.run_id != first.run_id


def test_a_completed_one_with_a_key_is_opened_again(db: Path) -> None:
    """It returns what is stored and executes what is new, as often as it is opened."""
    with durably.session("import", db, key="k") as first:
        use(first, "a")
    for new in ("b", "c"):
        with durably.session("import", db, key="k") as again:
            assert again.run_id == first.run_id
            assert again.get_run().status == "running"
            assert use(again, "a", new) == [new]
        assert again.get_run().status == "completed"
    with durably.session("other", db, key="k") as other:
        assert other.run_id != first.run_id
    assert check(db, is_idle=True, is_finished=True) == []


@pytest.mark.parametrize("key", [None, "k"])
def test_a_fresh_one_begins_anew(db: Path, key: str | None) -> None:
    """The key passes to it, and the old run keeps its record."""
    first = durably.session("import", db, key=key)
    closed(first)
    with durably.session("import", db, key=key, fresh=True) as second:
        assert second.run_id != first.run_id
        assert second.get_run().idempotency_key == key
        assert use(second, "a") == ["a"]
    with durably.Durably(db) as app:
        old = app.get_run(first.run_id)
        assert old is not None
        assert (old.status, old.idempotency_key, old.completed_steps) == ("pending", None, 1)


def test_a_session_and_a_job_of_one_name_are_apart(db: Path) -> None:
    """Neither is continued as the other; a key of both is an error."""

    @durably.job("import")
    def imports(step: durably.StepContext) -> int:
        return step.run("a", int)

    closed(durably.session("import", db))
    closed(durably.session("import", db, key="session"))
    with durably.Durably(db, jobs=[imports]) as app:
        run = app.trigger_and_wait(imports, idempotency_key="job")
        assert [each.kind for each in app.get_runs(status="pending")] == ["session"] * 2
        assert app.jobs["import"].get_runs() == [run]
        for fresh in (False, True):
            with pytest.raises(durably.ConflictError, match="that of a run of a job"):
                durably.session("import", db, key="job", fresh=fresh)
        assert app.get_run(run).idempotency_key == "job"


# -- while it is open ------------------------------------------------------------------------------


def test_a_cancelled_one_stops_and_stays_cancelled_until_it_is_opened_again(db: Path) -> None:
    """Its next step raises StopRun."""
    with durably.Durably(db) as app:
        with (
            pytest.raises(durably.RunCancelled, match="open it again"),
            durably.session("import", db) as step,
        ):
            use(step, "a")
            app.cancel(step.run_id)
            use(step, "b")
        assert step.get_run().status == app.get_run(step.run_id).status == "cancelled"
        with durably.session("import", db) as again:
            assert again.run_id == step.run_id
            assert use(again, "a", "b") == ["b"]
        assert again.get_run().status == "completed"
    assert check(db, is_idle=True) == []


def test_one_that_was_cancelled_during_its_last_step_says_so(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The block has ended, and the run has not completed."""
    with durably.Durably(db) as app, durably.session("import", db) as step:
        use(step, "a")
        app.cancel(step.run_id)
    assert step.get_run().status == "cancelled"
    assert "session 'import' has not completed, since it is cancelled" in caplog.text


def test_two_threads_use_it(db: Path) -> None:
    """Steps of several threads at once are stored."""
    both = threading.Barrier(2, timeout=HANG_S)
    with durably.session("import", db) as step, ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda name: step.run(name, both.wait), ("a", "b"))
        assert sorted(done) == [0, 1]
        assert step.get_run().completed_steps == 2


def test_an_engine_on_the_same_file_leaves_it_alone(db: Path) -> None:
    """Also one whose job has its name, and that is started."""

    @durably.job("import", origin="any")
    def imports(step: durably.StepContext) -> None:
        raise AssertionError("no job may be executed for a session")

    with durably.Durably(db, jobs=[imports], poll_interval=0.05) as app:
        step = durably.session("import", db)
        use(step, "a")
        step.close()
        assert app.run_until_idle() == 0
        assert app.get_run(step.run_id).attempt == 1
        with pytest.raises(durably.ConflictError, match="is a session"):
            app.adopt(step.run_id)


def test_a_job_of_its_name_does_not_have_it(db: Path) -> None:
    """Neither among its runs nor by its id; nor is it triggered again as one of the job's."""

    @durably.job("import")
    def imports(step: durably.StepContext) -> None: ...

    with durably.Durably(db, jobs=[imports]) as app, durably.session("import", db) as step:
        handle = app.jobs["import"]
        assert handle.get_runs() == []
        assert handle.get_run(step.run_id) is None
        assert app.get_run(step.run_id) is not None
    with durably.Durably(db, jobs=[imports]) as app, pytest.raises(durably.ConflictError):
        app.retrigger(step.run_id)


@pytest.mark.parametrize("is_started", [True, False])
def test_a_wait_for_one_that_is_closed_raises(db: Path, is_started: bool) -> None:
    """No engine can execute it; while it is open, others wait for its end."""
    app = durably.Durably(db)
    if is_started:
        app.start()
    step = durably.session("import", db)
    call, outcome = in_thread(lambda: app.wait(step.run_id))
    step.close()
    assert "is a session" in str(call.result())
    assert isinstance(outcome[0], durably.NoWorkerError)
    call, _ = in_thread(lambda: app.wait(step.run_id, timeout=HANG_S))
    with durably.session("import", db):
        pass
    assert call.result().status == "completed"
    app.close()


def test_a_name_used_twice_is_an_error(db: Path) -> None:
    """It is one everywhere outside of notebooks."""
    with durably.session("import", db) as step:
        use(step, "a")
        with pytest.raises(durably.DuplicateStepError):
            use(step, "a")


def test_the_options_of_the_engine_are_those_of_a_session(db: Path) -> None:
    """One of them is what happens to a name that is used twice; a wrong one is an error."""
    with durably.session("import", db, on_duplicate_step="reuse", persist_logs=True) as step:
        use(step, "a")
        with pytest.warns(durably.DuplicateStepWarning):
            assert use(step, "a") == []
        step.log.info("done")
    with durably.Durably(db) as app:
        assert [line.message for line in app.get_logs(step.run_id)] == ["done"]
    with pytest.raises(durably.ValidationError, match="synchronous"):
        durably.session("import", db, synchronous="never")


# -- what is not possible --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": ""}, "a session's name"),
        ({"name": 1}, "a session's name"),
        ({"name": "x" * 201}, "a session's name"),
        ({"key": ""}, "key"),
        ({"key": 7}, "key"),
        ({"fresh": "yes"}, "fresh"),
        ({"fresh": None}, "fresh"),
        ({"show": 1}, "show"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"labels": {"a": 1}}, "label"),
        ({"labels": ["a"]}, "labels"),
    ],
)
def test_a_wrong_argument_is_named_and_makes_no_file(
    db: Path, arguments: dict[str, Any], named: str
) -> None:
    """Before anything is opened."""
    with pytest.raises(durably.ValidationError, match=named):
        durably.session(**{"name": "import", "db": db, **arguments})
    assert not db.exists()


def test_a_closed_one_says_so(db: Path) -> None:
    """Steps raise StopRun, as those of a run that has ended; a block raises ConflictError."""
    with (
        durably.session("import", db) as step,
        pytest.raises(durably.ConflictError, match="used in a with block already"),
    ):
        step.__enter__()
    for call in (lambda: use(step, "a"), step.check, lambda: step.progress(1)):
        with pytest.raises(durably.StopRun, match="session 'import' is closed; open it again"):
            call()
    with pytest.raises(durably.ConflictError, match="is closed; open another one"):
        step.__enter__()
    step.close()
    assert step.get_run().status == "completed"


def test_it_is_not_copied(db: Path) -> None:
    """A copy would use the same indexes."""
    with durably.session("import", db) as step:
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(durably.SerializationError, match="session 'import'"):
                make(step)


def test_it_is_not_closed_inside_a_step(db: Path) -> None:
    """The step could not be stored."""
    with durably.session("import", db) as step:
        with pytest.raises(durably.ConflictError, match="inside its step 'a'"):
            step.run("a", step.close)
        assert use(step, "b") == ["b"]
    assert step.get_run().status == "completed"


def test_it_is_closed_inside_a_loop_over_a_map(db: Path) -> None:
    """What the loop has raised comes out, though its traceback keeps the iterator."""
    for error, status in ((ZeroDivisionError, "failed"), (KeyboardInterrupt, "pending")):

        def fail(error: type[BaseException] = error) -> int:
            raise error

        with (
            pytest.raises(error) as caught,
            durably.session("import", db, key="loop") as step,
        ):
            sum(fail() for _ in step.imap("q", str, [1, 2, 3]))
        assert type(caught.value) is error
        assert caught.value.__context__ is None
        assert step.get_run().status == status
    step = durably.session("import", db, key="loop")
    items = step.imap("c", str, range(500))
    next(items)
    with pytest.raises(durably.ConflictError, match="inside its step 'a'"):
        step.run("a", step.close)
    (item,) = step.imap("b", lambda _: step.close(), [1], on_failed="return")
    assert "inside its step 'b'" in item.error.message
    assert next(items).output == "1"
    step.close()
    assert list(items) == []
    with durably.session("import", db, key="loop") as step:
        next(left := step.imap("d", str, range(500)))
    assert (step.get_run().status, list(left)) == ("completed", [])


def test_a_thread_inside_a_step_finds_it_closed(db: Path) -> None:
    """What it has done is not stored, and its step raises StopRun."""
    inside, go = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go.wait(HANG_S)

    step = durably.session("import", db)
    call, _ = in_thread(lambda: step.run("a", wait))
    assert inside.wait(HANG_S)
    step.close()
    go.set()
    assert isinstance(call.result(), durably.StopRun)
    assert step.get_run().completed_steps == 0
    assert check(db) == []


def test_in_a_script_it_is_not_opened_twice(db: Path) -> None:
    """The object that has it goes on."""
    with durably.session("import", db) as step:
        with pytest.raises(durably.ConflictError, match="open in this process already"):
            durably.session("import", db, timeout=None)
        with durably.session("import", db, fresh=True) as fresh:
            assert fresh.run_id != step.run_id
        assert use(step, "a") == ["a"]


def test_a_session_whose_key_is_its_name_is_called_a_session(db: Path) -> None:
    """As the run of ``durably.map``, which is called a loop."""
    with (
        durably.session("import", db, key="import"),
        pytest.raises(durably.ConflictError, match="session 'import' is open in this process"),
    ):
        durably.session("import", db, key="import", timeout=None)


# -- at a prompt -----------------------------------------------------------------------------------


@pytest.fixture
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


@pytest.mark.usefixtures("_prompt")
@pytest.mark.parametrize("key", [None, "k"])
def test_in_an_interactive_session_a_new_object_takes_over(db: Path, key: str | None) -> None:
    """It uses the checkpoints of the old one, which rejects from then on."""
    old = durably.session("import", db, key=key)
    use(old, "a")
    new = durably.session("import", db, key=key)
    assert new.run_id == old.run_id
    with pytest.raises(durably.StopRun, match="was opened again in this process"):
        use(old, "b")
    assert use(new, "a", "b") == ["b"]
    old.close()
    with new:
        assert use(new, "c") == ["c"]
    assert new.get_run().status == "completed"
    assert check(db, is_idle=True) == []


@pytest.mark.usefixtures("_prompt")
def test_a_fresh_one_takes_over_without_its_checkpoints(db: Path) -> None:
    """The old run is pending; sessions of other names and keys go on."""
    old, other = durably.session("import", db), durably.session("import", db, key="k")
    use(old, "a")
    new = durably.session("import", db, fresh=True)
    assert new.run_id != old.run_id
    with pytest.raises(durably.StopRun, match="was opened again"):
        use(old, "b")
    assert use(new, "a") == use(other, "a") == ["a"]
    for each in (new, other):
        each.close()
    assert status_of(db, old.run_id) == "pending"


@pytest.mark.parametrize("is_grouped", [False, True])
def test_an_error_that_a_library_has_made_of_ctrl_c_leaves_it_pending(
    db: Path, *, is_grouped: bool
) -> None:
    """The error goes on to the caller, with a note that says what is kept."""

    def ask() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as exc:
            if not is_grouped:
                raise LookupError from exc
            raise ExceptionGroup("tasks", [LookupError()]) from exc

    error = ExceptionGroup if is_grouped else LookupError
    with pytest.raises(error) as raised, durably.session("import", db) as step:
        use(step, "a")
        step.run("b", ask)
    assert status_of(db, step.run_id) == "pending"
    assert raised.value.__notes__ == ["stopped; 1 completed step is kept. Start it again to go on."]


@pytest.mark.usefixtures("_prompt")
def test_after_an_interrupt_the_session_goes_on(db: Path) -> None:
    """The step that was interrupted is no failure, and is executed again."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    step = durably.session("import", db)
    use(step, "a")
    with pytest.raises(KeyboardInterrupt):
        step.run("b", interrupt)
    assert use(step, "b") == ["b"]
    step.close()


# -- other processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"])
def test_a_live_process_keeps_it(db: Path, key: str | None) -> None:
    """Others learn which process that is, at once or after their patience."""
    arguments = () if key is None else ("--key", key)
    with Child("opens_a_session", db, *arguments) as child:
        child.expect("open 0")
        child.say("step a")
        child.expect("executes a")
        child.expect("stored a")
        for timeout in (0, 0.05):
            with pytest.raises(durably.ConflictError, match=f"in process {child.pid} .1 step"):
                durably.session("script", db, key=key, timeout=timeout)
        call, _ = in_thread(lambda: durably.session("script", db, key=key, timeout=HANG_S))
        child.say("end")
        step = call.result()
        assert child.wait() == 0
        assert use(step, "a", "b") == ["b"]
        step.close()
    assert check(db, is_idle=True) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_killed_process_gives_it_up(db: Path, is_waiting: bool) -> None:
    """What it had committed is used, and the step in progress is executed again."""
    with Child("opens_a_session", db, "--block") as child:
        child.expect("open 0")
        child.say("step a")
        child.expect("executes a")
        child.expect("stored a")
        child.say("wait b")
        child.expect("inside b")
        if is_waiting:
            call, _ = in_thread(lambda: durably.session("script", db, timeout=HANG_S))
        child.kill()
        with call.result() if is_waiting else durably.session("script", db) as step:
            assert step.attempt == 2
            assert step.run("a", int) == child.pid
            assert use(step, "b") == ["b"]
    assert check(db, is_idle=True, is_finished=True) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "end", "SystemExit"])
@pytest.mark.parametrize("block", [True, False])
def test_a_process_that_ends_leaves_it_pending(db: Path, how: str, block: bool) -> None:
    """A signal in the middle of a step, an exit and the end of the script do the same."""
    expected = "completed" if block and how == "end" else "pending"
    arguments = ["--block"] if block else []
    with Child("opens_a_session", db, "--handler", *arguments) as child:
        child.expect("open 0")
        child.say("step a")
        child.expect("executes a")
        child.expect("stored a")
        if how.startswith("SIG"):
            child.say("wait b")
            child.expect("inside b")
            os.kill(child.pid, getattr(signal, how))
        else:
            child.say("end" if how == "end" else f"raise {how}")
        child.wait()
    with durably.Durably(db) as app:
        (run,) = app.get_runs()
        assert (run.status, run.completed_steps) == (expected, 1)
        assert [step.status for step in app.get_steps(run)] == ["completed"]
    assert check(db, is_idle=True) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_does_not_use_it(db: Path) -> None:
    """Its steps raise ForkedError, and nothing that it does ends the session of its parent."""
    with durably.session("import", db) as step:
        use(step, "a")
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            found = []
            try:
                for call in (lambda: use(step, "b"), step.close, step.get_run, step.__enter__):
                    try:
                        call()
                    except durably.ForkedError as exc:
                        found.append(str(exc))
                step.__exit__(None, None, None)
            finally:
                os.write(write, "\n".join(found).encode())
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            found = pipe.read().splitlines()
        os.waitpid(pid, 0)
        assert len(found) == 4
        assert found[0].startswith("session 'import' is open in the parent of this process")
        assert use(step, "b") == ["b"]
    assert step.get_run().status == "completed"


# -- beside engines --------------------------------------------------------------------------------


@pytest.mark.usefixtures("_prompt")
def test_sessions_and_an_engine_are_beside_each_other(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a prompt an engine replaces another one on its file, and no session."""
    first, second = durably.session("first", db), durably.session("second", db)
    with durably.Durably(db) as app:
        third = durably.session("third", db)
        for step in (first, second, third):
            assert use(step, "a") == ["a"]
            step.close()
        assert len(app.get_runs()) == 3
    assert caplog.messages == []


@pytest.mark.usefixtures("_prompt")
@pytest.mark.parametrize("which", ["session", "engine"])
@pytest.mark.parametrize("opened", ["session", "engine"])
def test_one_whose_file_was_removed_is_replaced(db: Path, which: str, opened: str) -> None:
    """The file is made anew, and what had the removed one open is closed."""
    old = durably.session("import", db) if which == "session" else durably.Durably(db)
    for path in db.parent.iterdir():
        path.unlink()
    new = durably.session("import", db) if opened == "session" else durably.Durably(db)
    if isinstance(new, durably.Session):
        assert use(new, "a") == ["a"]
    else:
        assert new.get_runs() == []
    if isinstance(old, durably.Session):
        with pytest.raises(durably.StopRun):
            use(old, "a")
    else:
        with pytest.raises(durably.EngineClosedError):
            old.get_runs()
    for each in (old, new):
        each.close()


def test_an_unknown_option_is_named(db: Path) -> None:
    """As a call of Python's own would."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_worker'"):
        durably.session("import", db, max_worker=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"session\(\) got an unexpected keyword argument 'path'"):
        durably.session("import", path=db)  # type: ignore[call-arg]


def test_without_a_path_the_environment_names_the_file(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine does without a path."""
    monkeypatch.setenv("DURABLY_DB", str(db))
    with durably.session("import", None):
        assert db.exists()


def test_a_map_is_a_step_of_it(db: Path) -> None:
    """Its items are checkpoints of the session, and a failed one fails the block."""

    def work(item: int) -> int:
        executed.append(item)
        return 6 // item

    executed: list[int] = []
    with pytest.raises(durably.ItemsFailedError), durably.session("import", db) as step:
        step.map("work", work, [0, 1, 2])
    assert step.get_run().status == "failed"
    assert executed == [0, 1, 2]
    executed.clear()
    with durably.session("import", db) as again:
        assert again.map("work", lambda item: work(item or 6), [0, 1, 2]) == [1, 6, 3]
    assert executed == [6]
    assert check(db, is_idle=True, is_finished=True) == []
