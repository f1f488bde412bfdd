"""The errors: their tree, what they carry, and that each says what, where and what to do."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

import durably
from durably import errors
from durably.store.sqlite.connection.sqlite_errors import database_error

# Name: its bases, as the contract draws them.
TREE: dict[str, tuple[type, ...]] = {
    "DurablyError": (Exception,),
    "ValidationError": (errors.DurablyError, ValueError),
    "SerializationError": (errors.DurablyError, TypeError),
    "NotFoundError": (errors.DurablyError, LookupError),
    "ConflictError": (errors.DurablyError,),
    "RunFailedError": (errors.DurablyError,),
    "RunsFailedError": (errors.DurablyError, ExceptionGroup),
    "ItemsFailedError": (errors.DurablyError, ExceptionGroup),
    "WorkerDiedError": (errors.DurablyError,),
    "ExecutorBrokenError": (errors.DurablyError,),
    "StepTimeoutError": (errors.DurablyError, TimeoutError),
    "RunCancelledError": (errors.DurablyError,),
    "WaitTimeoutError": (errors.DurablyError, TimeoutError),
    "NoWorkerError": (errors.DurablyError,),
    "DuplicateStepError": (errors.DurablyError,),
    "SchemaError": (errors.DurablyError,),
    "DatabaseError": (errors.DurablyError,),
    "DatabaseLostError": (errors.DatabaseError,),
    "BackupExistsError": (errors.DurablyError, FileExistsError),
    "EngineClosedError": (errors.DurablyError,),
    "ForkedError": (errors.DurablyError,),
    "StopRun": (BaseException,),
    "RunCancelled": (errors.StopRun,),
    "RunInterrupted": (errors.StopRun,),
    "RunSuspended": (errors.StopRun,),
    "OwnershipLost": (errors.StopRun,),
    "DurablyWarning": (UserWarning,),
    "DuplicateStepWarning": (durably.DurablyWarning,),
    "PayloadChangedWarning": (durably.DurablyWarning,),
    "ItemsChangedWarning": (durably.DurablyWarning,),
    "CodeChangedWarning": (durably.DurablyWarning,),
    "RetryAfter": (Exception,),
}
WITH_A_RUN = ("RunFailedError", "RunsFailedError", "RunCancelledError")
WITH_OTHER_PARTS = ("ItemsFailedError", "RetryAfter")
TEXTUAL = sorted(TREE.keys() - {*WITH_A_RUN, *WITH_OTHER_PARTS})


def test_the_tree_is_the_contracts() -> None:
    """Each error has exactly the bases of the contract, a docstring of its own, and is importable
    from durably.
    """
    for name, bases in TREE.items():
        cls = getattr(durably, name)
        assert cls.__bases__ == bases, name
        assert cls is getattr(errors, name)
        assert vars(cls)["__doc__"].strip(), name


def test_there_are_no_others() -> None:
    """No module of the library defines an exception that the contract does not name."""
    folder = Path(inspect.getfile(durably)).parent
    found = {
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and any(
            ast.unparse(base).endswith(("Error", "Exception", "Warning", "StopRun"))
            for base in node.bases
        )
    }
    # An event, whose base is Event, and what never leaves the codec or the command line.
    inside = {
        "Unknown",
        "WorkerError",
        "MissingKeyError",
        "NotPlainError",
        "Problem",
        "Problems",
        "Unsupported",
        "RemoteTraceback",
    }
    assert found - inside == set(TREE)


def test_control_flow_is_not_swallowed_by_except_exception() -> None:
    """StopRun and its kinds pass through an ``except Exception`` of a job."""
    for name in ("StopRun", "RunCancelled", "RunInterrupted", "OwnershipLost"):
        assert not issubclass(getattr(durably, name), Exception)
        assert not issubclass(getattr(durably, name), errors.DurablyError)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda exc: pickle.loads(pickle.dumps(exc))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_an_error_survives_being_copied_and_pickled(duplicate: Any) -> None:
    """An error goes through multiprocessing and concurrent.futures with type, text and notes."""
    for name in TEXTUAL:
        exc = getattr(durably, name)("what, where and what to do")
        exc.add_note("a note")
        other = duplicate(exc)

        assert type(other) is type(exc)
        assert str(other) == "what, where and what to do"
        assert other.args == exc.args
        assert other.__notes__ == ["a note"]


@pytest.mark.parametrize("is_transient", [True, False])
def test_a_database_error_keeps_its_attribute_when_pickled(is_transient: bool) -> None:
    """is_transient is still there in the process that the error is sent to."""
    for cls in (errors.DatabaseError, errors.DatabaseLostError):
        other = pickle.loads(pickle.dumps(cls("locked", is_transient=is_transient)))
        assert other.is_transient is is_transient


def test_a_wait_timeout_is_what_code_for_timeouts_catches() -> None:
    """It is a TimeoutError with plain text, without an errno."""
    exc = errors.WaitTimeoutError("run X is still running after 1 s")
    assert isinstance(exc, TimeoutError)
    assert exc.errno is None
    assert str(exc) == "run X is still running after 1 s"


@pytest.fixture
def app(tmp_path: Path) -> Any:
    with durably.Durably(tmp_path / "errors.db") as app:
        yield app


class TestWithARun:
    @pytest.fixture
    def failed(self, app: durably.Durably) -> errors.RunFailedError:
        @durably.job("import csv")
        def failing(step, payload):
            raise ValueError("row 7 is bad")

        with pytest.raises(durably.RunFailedError) as caught:
            app.register(failing).trigger_and_wait({"a": [1]}, labels={"k": "v"})
        return caught.value

    @pytest.fixture
    def cancelled(self, app: durably.Durably) -> errors.RunCancelledError:
        @durably.job("import csv")
        def endless(step):
            step.sleep(1000)

        run = app.register(endless).trigger()
        app.cancel(run)
        with pytest.raises(durably.RunCancelledError) as caught:
            app.wait(run)
        return caught.value

    def test_a_failed_run_is_carried(self, failed: errors.RunFailedError) -> None:
        """RunFailedError.run is the run as it ended."""
        assert failed.run.status is durably.RunStatus.FAILED
        assert failed.run.error is not None
        assert failed.run.error.message == "row 7 is bad"

    def test_the_message_of_a_failure(self, failed: errors.RunFailedError) -> None:
        """One line: the job, how many steps are completed, the error."""
        assert str(failed) == "import csv failed after 0 completed steps: ValueError: row 7 is bad"

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            (0, "failed in step 'page-0' after 0 completed steps: ZeroDivisionError: division"),
            (1, "failed in step 'page-1' after 1 completed step: ZeroDivisionError: division"),
            (3, "failed in step 'page-3' after 3 completed steps: ZeroDivisionError: division"),
        ],
    )
    def test_the_message_names_the_step(
        self, app: durably.Durably, steps: int, expected: str
    ) -> None:
        """It says how many steps are completed, those of earlier attempts included."""

        @durably.job
        def crawl(step: durably.StepContext) -> None:
            for page in range(steps):
                step.run(f"page-{page}", int)
            step.run(f"page-{steps}", lambda: 1 / 0)

        for _ in range(2):
            with pytest.raises(durably.RunFailedError) as caught:
                app.trigger_and_wait(crawl, idempotency_key="k", retry_failed=True)
            assert str(caught.value) == f"crawl {expected} by zero"

    def test_a_failure_outside_of_steps_names_none(self, app: durably.Durably) -> None:
        """Also if a step has failed before, and the job has handled that."""

        @durably.job
        def handles(step: durably.StepContext) -> None:
            step.run("first", int)
            with contextlib.suppress(ValueError):
                step.run("second", int, "x")
            raise KeyError("later")

        with pytest.raises(durably.RunFailedError) as caught:
            app.trigger_and_wait(handles)
        assert str(caught.value) == "handles failed after 1 completed step: KeyError: 'later'"
        assert caught.value.__notes__[0].splitlines()[-1] == (
            "Completed steps are kept. Fix the cause and start it again with "
            f"retry({caught.value.run.id!r})."
        )

    def test_the_message_is_one_line_that_a_terminal_prints(self, app: durably.Durably) -> None:
        """Whatever the message of the error contains, and however long it is."""

        @durably.job
        def failing(step: durably.StepContext, text: str) -> None:
            step.run("it's\u202e", lambda: 1)
            raise ValueError(text)

        for text in ("one\ntwo\x1b[31m\u202e\ud800", "x" * 100_000):
            with pytest.raises(durably.RunFailedError) as caught:
                app.trigger_and_wait(failing, text)
            line = str(caught.value)
            assert line.isprintable()
            assert len(line) < 1200
            assert caught.value.run.error is not None
            assert text[:10] in caught.value.run.error.message

    def test_the_note_of_a_failure(self, app: durably.Durably) -> None:
        """The frames of the user without marks, and the next move."""

        def fetch() -> None:
            raise ValueError("row 7")

        @durably.job
        def job(step: durably.StepContext) -> None:
            step.run("read", int)
            step.run("fetch", fetch)

        def wait() -> None:
            app.wait(app.trigger(job))

        calls: dict[str, Callable[[], object]] = {
            "start it again": lambda: app.run(job),
            "start it again ": lambda: app.run(job, key="x"),
            "start it again  ": lambda: app.trigger_and_wait(
                job, idempotency_key="y", retry_failed=True
            ),
            "start it again with retry({id!r})": lambda: app.trigger_and_wait(job),
            "start it again with retry({id!r}) ": wait,
        }
        first = fetch.__code__.co_firstlineno
        for move, call in calls.items():
            with pytest.raises(durably.RunFailedError) as caught:
                call()
            again = move.strip().format(id=caught.value.run.id)
            (note,) = caught.value.__notes__
            assert note == (
                f'  File "{__file__}", line {first + 6}, in job\n'
                '    step.run("fetch", fetch)\n'
                f'  File "{__file__}", line {first + 1}, in fetch\n'
                '    raise ValueError("row 7")\n'
                f"Completed steps are kept. Fix the cause and {again}: it continues at 'fetch'."
            )

    def test_the_note_of_a_session_that_is_waited_for(
        self, app: durably.Durably, tmp_path: Path
    ) -> None:
        """Only opening it again continues it."""
        with (
            contextlib.suppress(ValueError),
            durably.session("import", tmp_path / "errors.db") as step,
        ):
            step.run("a", int, "x")
        with pytest.raises(durably.RunFailedError) as caught:
            app.wait(step.run_id)
        assert str(caught.value).startswith("import failed in step 'a' after 0 completed steps: Va")
        assert caught.value.__notes__[0].splitlines()[-1] == (
            "Fix the cause and open the session again: it continues at 'a'."
        )

    def test_the_note_of_an_error_with_a_cause_shows_the_frames_of_both(
        self, app: durably.Durably
    ) -> None:
        """As Python prints them."""

        @durably.job
        def job(step: durably.StepContext) -> None:
            try:
                step.run("a", int, "x")
            except ValueError as exc:
                raise KeyError("missing") from exc

        with pytest.raises(durably.RunFailedError) as caught:
            app.trigger_and_wait(job)
        assert caught.value.run.error is not None
        text = caught.value.run.error.traceback
        assert caught.value.__notes__[0].startswith(text.rstrip("\n"))
        assert text.count("Error: ") == 2
        assert str(caught.value).startswith("job failed in step 'a' after 0")

    def test_a_run_that_failed_elsewhere_has_the_same_line_and_note(
        self, app: durably.Durably, tmp_path: Path
    ) -> None:
        """They are read from the file."""

        @durably.job
        def job(step: durably.StepContext) -> None:
            step.run("a", int, "x")

        with pytest.raises(durably.RunFailedError) as first:
            app.trigger_and_wait(job)
        with (
            durably.Durably(tmp_path / "errors.db") as other,
            pytest.raises(durably.RunFailedError) as second,
        ):
            other.wait(first.value.run.id)
        assert str(second.value) == str(first.value)
        assert second.value.__notes__ == first.value.__notes__

    def test_a_cancelled_run_is_carried(self, cancelled: errors.RunCancelledError) -> None:
        """RunCancelledError.run is the run as it ended."""
        assert cancelled.run.status is durably.RunStatus.CANCELLED

    def test_the_message_of_a_cancellation(self, cancelled: errors.RunCancelledError) -> None:
        """It names the run and its job, and says how to continue."""
        text = str(cancelled)
        assert cancelled.run.id in text
        assert "'import csv'" in text
        assert f"retry({cancelled.run.id!r})" in text

    @pytest.mark.parametrize(
        "duplicate",
        [copy.copy, copy.deepcopy, lambda exc: pickle.loads(pickle.dumps(exc))],
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_both_survive_being_copied_and_pickled(
        self, failed: errors.RunFailedError, duplicate: Any
    ) -> None:
        """The run goes along, with its error, labels and payload."""
        for exc in (failed, errors.RunCancelledError(failed.run)):
            other = duplicate(exc)
            assert type(other) is type(exc)
            assert other.run == failed.run
            assert str(other) == str(exc)
            assert getattr(other, "__notes__", ()) == getattr(exc, "__notes__", ())


class TestMessages:
    """What was wrong, where, and what to do."""

    def test_a_closed_engine(self, tmp_path: Path) -> None:
        """EngineClosedError names the database and says to open a new engine."""
        app = durably.Durably(tmp_path / "closed.db")
        app.close()
        with pytest.raises(durably.EngineClosedError, match=r"closed\.db.*closed.*open a new one"):
            app.get_runs()

    def test_an_unknown_run(self, app: durably.Durably) -> None:
        """NotFoundError names the id that leads to nothing, whatever asked for it."""
        calls = [app.get_steps, app.get_logs, app.retry, app.retrigger, app.cancel]
        calls += [
            app.delete_run,
            app.wait,
            app.subscribe,
            lambda run: list(app.as_completed([run])),
        ]
        for call in calls:
            with pytest.raises(durably.NotFoundError, match="NOSUCHRUN"):
                call("NOSUCHRUN")

    def test_a_conflict(self, app: durably.Durably) -> None:
        """ConflictError names the run, its state, what was not possible, and what would be."""
        run = app.register(durably.job("quick")(lambda step: None)).trigger_and_wait()
        for call, verb in ((app.retry, "retried"), (app.cancel, "cancelled")):
            with pytest.raises(durably.ConflictError, match=f"{run.id} is completed.*{verb}: only"):
                call(run)

    @pytest.mark.parametrize("verb", ["stop", "close", "run_until_idle"])
    def test_waiting_for_oneself(self, app: durably.Durably, verb: str) -> None:
        """The rejection names the call that was made, and says to make it elsewhere."""

        @durably.job("suicidal")
        def suicidal(step):
            getattr(app, verb)()

        with pytest.raises(
            durably.RunFailedError, match=rf"ConflictError: {verb} .*from another thread"
        ):
            app.register(suicidal).trigger_and_wait()

    def test_nothing_executes(self, tmp_path: Path) -> None:
        """NoWorkerError names the run and says to start an engine."""
        app = durably.Durably(tmp_path / "x.db", jobs=[durably.job("x")(lambda step: None)])
        try:
            run = app.jobs["x"].trigger()
            with pytest.raises(durably.NoWorkerError, match=rf"{run.id}.*start\(\)"):
                app.wait(run)
        finally:
            app.close()

    def test_time_over(self, tmp_path: Path) -> None:
        """WaitTimeoutError names the run, its state and the time, and says that it continues."""
        app = durably.Durably(tmp_path / "x.db", jobs=[durably.job("x")(lambda step: None)])
        try:
            run = app.jobs["x"].trigger()
            message = rf"{run.id} is still pending after 0\.0 s.*continues"
            with pytest.raises(durably.WaitTimeoutError, match=message):
                app.wait(run, timeout=0)
        finally:
            app.close()

    def test_a_stop_that_took_too_long(self, app: durably.Durably) -> None:
        """WaitTimeoutError of stop says how many runs continue, and how to execute others."""
        inside, go = threading.Event(), threading.Event()

        @durably.job("busy")
        def busy(step):
            inside.set()
            go.wait(30)

        try:
            app.register(busy).trigger()
            assert inside.wait(30)
            with pytest.raises(durably.WaitTimeoutError, match=r"^1 run .* 0\.01 s.*start\(\)"):
                app.stop(timeout=0.01)
        finally:
            go.set()

    @pytest.mark.parametrize(
        ("cls", "says", "is_transient"),
        [
            (apsw.BusyError, "locked by another program", True),
            (apsw.FullError, "disk is full; make room", True),
            (apsw.CorruptError, "damaged; restore it from a copy", False),
            (apsw.IOError, "I/O error", True),
            (apsw.ReadOnlyError, "check the permissions", False),
            (apsw.CantOpenError, "has file descriptors left", True),
            (apsw.NotADBError, "not an SQLite database", False),
            (apsw.TooBigError, "a value this large", False),
            (apsw.MisuseError, "MisuseError: the words of SQLite", False),
        ],
        ids=lambda each: getattr(each, "__name__", ""),
    )
    def test_what_sqlite_reports(self, cls: Any, says: str, is_transient: bool) -> None:
        """A DatabaseError names the file, says what happened, and quotes SQLite."""
        error = database_error(cls("the words of SQLite"), "/data/app.db")

        assert type(error) is durably.DatabaseError
        assert "'/data/app.db'" in str(error)
        assert says in str(error)
        assert "the words of SQLite" in str(error)
        assert error.is_transient is is_transient
