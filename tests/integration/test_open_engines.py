"""One engine for a file: which engine takes the place of another one of this process."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S, Call, later, names_of_threads
from children import Eventually, execute
from held import HeldJob
from interrupting import SignalAt
from invariants import check

import durably
from durably import ConflictError, DatabaseLostError, Durably, EngineClosedError, RunStatus

Warned = Callable[[], list[str]]


@durably.job
def quick(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In a folder of its own, which can be moved."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "x.db"


@pytest.fixture
def opened() -> Iterator[Callable[..., Durably]]:
    """Open engines that are closed at the end of the test."""
    engines: list[Durably] = []

    def opened(path: Path | str | None = None, **options: Any) -> Durably:
        engines.append(Durably(path, **{"jobs": [quick], "synchronous": "normal"} | options))
        return engines[-1]

    yield opened
    for app in engines:
        app._shutdown.at_exit()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interactive session."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """What was logged as a warning."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "durably" and record.levelno >= logging.WARNING
    ]


def is_closed(app: Durably) -> bool:
    return repr(app).endswith(" closed>")


REPLACED = "was replaced by one that this process has opened since"


def hard_linked(path: Path) -> dict[str, Any]:
    path.with_name("other.db").hardlink_to(path)
    return {"path": path.with_name("other.db")}


def removed(path: Path) -> dict[str, Any]:
    path.unlink()
    return {"path": path, "create": False}


class TestWhoIsReplaced:
    def test_a_script_keeps_both(self, path: Path, opened: Any, warned: Warned) -> None:
        """In a script two engines on one file execute runs side by side."""
        first, second = opened(path).start(), opened(path).start()
        assert first.trigger_and_wait(quick).output == second.trigger_and_wait(quick).output == 7
        assert warned() == []

    @pytest.mark.usefixtures("session")
    def test_a_session_keeps_the_newest(self, path: Path, opened: Any, warned: Warned) -> None:
        """In an interactive session the engine before is closed, and one line says so."""
        first = opened(path).start()
        handle = first.jobs["quick"]
        second = opened(path).start()
        assert is_closed(first)
        (line,) = warned()
        assert str(path) in line
        assert "replace=False" in line
        for call in (first.start, handle.trigger, first.get_runs, lambda: first.jobs):
            with pytest.raises(EngineClosedError, match=REPLACED):
                call()
        first.close()
        assert second.trigger_and_wait(quick).output == 7
        assert is_closed(first)

    @pytest.mark.usefixtures("session")
    def test_both_are_kept_on_request(self, path: Path, opened: Any, warned: Warned) -> None:
        """replace=False keeps the others in a session."""
        first = opened(path)
        second = opened(path, replace=False)
        assert not is_closed(first)
        assert warned() == []
        third = opened(path)
        assert [is_closed(each) for each in (first, second, third)] == [True, True, False]
        assert len(warned()) == 2

    def test_a_script_replaces_on_request(self, path: Path, opened: Any) -> None:
        """replace=True closes the others in a script."""
        first = opened(path).start()
        opened(path, replace=True)
        assert is_closed(first)

    def test_an_engine_that_nobody_has_is_replaced(
        self, path: Path, opened: Any, warned: Warned
    ) -> None:
        """Threads that go on after their engine was dropped are ended with it."""
        Durably(path, jobs=[quick]).start()
        assert names_of_threads() != []
        opened(path, replace=True)
        assert names_of_threads() == []
        assert len(warned()) == 1

    def test_what_is_closed_is_not_replaced(self, path: Path, opened: Any, warned: Warned) -> None:
        """An engine that was closed, or was dropped before it started, is not spoken of."""
        opened(path).close()
        Durably(path)
        gc.collect()
        opened(path, replace=True)
        assert warned() == []

    @pytest.mark.parametrize("value", [1, "yes", 0])
    def test_what_replace_may_be(self, path: Path, value: Any) -> None:
        """Anything but True, False and None is a ValidationError, and nothing is closed or made."""
        with pytest.raises(durably.ValidationError, match="^replace must be True, False or None"):
            Durably(path, replace=value)
        assert list(path.parent.iterdir()) == []

    @pytest.mark.parametrize("by", [hard_linked, removed], ids=lambda each: each.__name__)
    def test_a_path_that_cannot_be_opened_closes_nothing(
        self, path: Path, opened: Any, by: Callable[[Path], dict[str, Any]]
    ) -> None:
        """What is found before the file is opened leaves the engine before as it is."""
        first = opened(path)
        with pytest.raises(durably.DatabaseError, match="hard links|there is no file"):
            Durably(**by(path), replace=True)
        assert not is_closed(first)

    @pytest.mark.parametrize("option", [{"jobs": [5]}, {"max_workers": 0}])
    def test_a_call_that_is_rejected_closes_nothing(
        self, path: Path, opened: Any, option: dict[str, Any]
    ) -> None:
        """A mistake in the cell leaves the engine before as it is."""
        first = opened(path)
        with pytest.raises(durably.ValidationError):
            Durably(path, replace=True, **option)
        assert not is_closed(first)


class TestTheSameFile:
    def by_a_relative_path(self, path: Path) -> Path:
        return Path(os.path.relpath(path))

    def by_a_link(self, path: Path) -> Path:
        link = path.with_name("link.db")
        link.symlink_to(path)
        return link

    def by_a_linked_folder(self, path: Path) -> Path:
        path.parent.with_name("linked").symlink_to(path.parent)
        return path.parent.with_name("linked") / path.name

    def by_a_detour(self, path: Path) -> Path:
        return path.parent / ".." / path.parent.name / path.name

    def after_a_move(self, path: Path) -> Path:
        return path.rename(path.with_name("moved.db"))

    def after_a_move_of_the_folder(self, path: Path) -> Path:
        return path.parent.rename(path.parent.with_name("moved")) / path.name

    @pytest.mark.parametrize(
        "way",
        [
            by_a_relative_path,
            by_a_link,
            by_a_linked_folder,
            by_a_detour,
            after_a_move,
            after_a_move_of_the_folder,
        ],
    )
    def test_is_known_by_any_name(
        self, path: Path, opened: Any, way: Callable[[Any, Path], Path]
    ) -> None:
        """Whatever leads to the file, its engine is found."""
        first = opened(path).start()
        second = opened(way(self, path), replace=True)
        assert is_closed(first)
        assert second.start().trigger_and_wait(quick).output == 7

    @pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts in a namespace of its own")
    def test_is_known_in_a_folder_that_is_mounted_twice(self, tmp_path: Path) -> None:
        """A bind mount of the folder leads to the same file."""
        for name in ("host", "mounted"):
            (tmp_path / name).mkdir()
        script = f'mount --bind {tmp_path / "host"} {tmp_path / "mounted"} && exec "$@"'
        under = ["unshare", "-m", "sh", "-c", script, "sh"]
        done = execute("replaces", tmp_path / "host/x.db", tmp_path / "mounted/x.db", under=under)
        if done.returncode and "Error" not in done.stderr:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        assert done.stdout == "closed\n", done.stderr

    def test_is_not_a_copy_or_a_neighbour(self, path: Path, opened: Any) -> None:
        """An engine on another file stays open, also one of the same name elsewhere."""
        first = opened(path)
        copied = path.with_name("copy.db")
        path.with_name("other").mkdir()
        shutil.copy(path, copied)
        for other in (copied, path.parent / "other" / path.name):
            opened(other, replace=True)
        assert not is_closed(first)


class TestRunsInProgress:
    def test_are_continued_by_the_new_engine(
        self, path: Path, opened: Any, eventually: Eventually
    ) -> None:
        """Its run stops after its step, goes back, and the new engine does the rest; a thread that
        waits for it by the engine before gets its error.
        """
        held = HeldJob()
        first = opened(path, jobs=[held.job]).start()
        run = first.trigger(held.job, 7)
        held.inside()
        waiting = Call(lambda: first.wait(run))
        opening = Call(lambda: opened(path, jobs=[held.job], replace=True))
        eventually(lambda: not first._supervisor.state.takes_runs)
        held.let_all_go()
        second = opening.result()
        with pytest.raises(EngineClosedError, match=REPLACED):
            raise waiting.result()
        assert second.get_run(run).status is RunStatus.PENDING
        assert held.calls == ["first", "second"]
        assert second.start().wait(run, timeout=HANG_S).output == 7
        assert held.calls == ["first", "second", "third"]
        second.close()
        assert check(path, is_idle=True, is_finished=True) == []

    def test_a_wait_by_an_engine_that_is_being_replaced_is_answered_by_its_end(
        self, path: Path, opened: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not by the fact that nothing executes the run just now."""
        held = HeldJob()
        first = opened(path, jobs=[held.job])
        run = first.trigger(held.job, 7)
        is_stopped, may_close = later(monkeypatch, first._shutdown, "_close")
        opening = Call(lambda: opened(path, jobs=[held.job], replace=True))
        assert is_stopped.wait(HANG_S)
        reads: list[str] = []
        read = first._store.brief_or_ended
        monkeypatch.setattr(
            first._store, "brief_or_ended", lambda run_id: (reads.append(run_id), read(run_id))[1]
        )
        waiting = Call(lambda: first.wait(run))
        # The one after it has been checked who can execute the run.
        eventually(lambda: len(reads) >= 3 or waiting.outcome)
        may_close.set()
        opening.result().close()
        with pytest.raises(EngineClosedError, match=REPLACED):
            raise waiting.result()

    def test_a_run_in_a_thread_of_the_user_is_waited_for_and_named(
        self, path: Path, opened: Any, warned: Warned, eventually: Eventually
    ) -> None:
        """A call of run() there ends with an error, and the run goes back."""
        held = HeldJob()
        first = opened(path, jobs=[held.job])
        running = Call(lambda: first.run(held.job, 7))
        held.inside()
        opening = Call(lambda: opened(path, jobs=[held.job], replace=True))
        eventually(warned)
        assert warned() == ["Stopping after step 'second'; press Ctrl-C to leave it"]
        held.let_all_go()
        assert opening.result().run(held.job, 7).output == 7
        assert isinstance(running.result(), ConflictError | EngineClosedError)

    def test_a_job_that_cannot_replace_its_own_engine_replaces_no_other(
        self, path: Path, opened: Any
    ) -> None:
        """None of several is closed."""

        @durably.job
        def opens(step: durably.StepContext) -> None:
            with pytest.raises(ConflictError):
                Durably(path, replace=True)

        engines = [opened(path, jobs=[opens]) for _ in range(3)]
        for app in engines:
            app.run(opens)
        assert not any(map(is_closed, engines))

    @pytest.mark.parametrize("on_pool", [False, True], ids=["process_one", "pool"])
    def test_a_job_cannot_replace_its_own_engine(
        self, path: Path, opened: Any, *, on_pool: bool
    ) -> None:
        """It would wait for itself: ConflictError; with replace=False it may open another one."""

        @durably.job
        def opens(step: durably.StepContext) -> str:
            with pytest.raises(ConflictError, match="replace=False"):
                Durably(path, replace=True)
            with Durably(path, replace=False) as other:
                return repr(other)

        app = opened(path, jobs=[opens])
        if on_pool:
            run = app.start().trigger_and_wait(opens, timeout=HANG_S)
        else:
            run = app.trigger(opens)
            assert app.process_one()
        assert app.get_run(run).output.endswith(" started>")
        assert not is_closed(app)

    def test_a_listener_cannot_replace_its_own_engine(self, path: Path, opened: Any) -> None:
        """The thread that would be waited for is the one that calls."""
        app = opened(path)
        raised: list[BaseException] = []

        def listen(_: object) -> None:
            try:
                Durably(path, replace=True)
            except ConflictError as exc:
                raised.append(exc)

        app.on("run:complete", listen)
        app.trigger(quick)
        assert app.process_one()
        assert len(raised) == 1
        assert not is_closed(app)

    def test_a_step_that_is_waited_for_can_be_left(
        self, path: Path, opened: Any, warned: Warned, eventually: Eventually
    ) -> None:
        """The wait names the step; Ctrl-C leaves it, and the cell executed again opens the file."""

        class Presser(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "press Ctrl-C" in record.getMessage():
                    os.kill(os.getpid(), signal.SIGINT)

        held = HeldJob()
        first = opened(path, jobs=[held.job]).start()
        run = first.trigger(held.job, 7)
        held.inside()
        logger, presser = logging.getLogger("durably"), Presser()
        logger.addHandler(presser)
        try:
            with pytest.raises(KeyboardInterrupt):
                Durably(path, jobs=[held.job], replace=True)
        finally:
            logger.removeHandler(presser)
        assert warned()[0] == "Stopping after step 'second'; press Ctrl-C to leave it"
        with pytest.raises(EngineClosedError, match=REPLACED):
            first.trigger(held.job)
        second = opened(path, jobs=[held.job], replace=True).start()
        held.let_all_go()
        assert second.wait(run, timeout=HANG_S).output == 7
        eventually(lambda: first._store.is_closed)


class TestManyAtOnce:
    def test_one_of_many_threads_has_the_last_word(self, path: Path, opened: Any) -> None:
        """Of engines that are opened at once with replace=True, exactly one stays open."""
        calls = [Call(lambda: opened(path, replace=True).start()) for _ in range(6)]
        engines = []
        for call in calls:
            result = call.result()
            # An engine may be replaced between its opening and its start.
            if isinstance(result, BaseException):
                assert isinstance(result, EngineClosedError)
            else:
                engines.append(result)
        left = [app for app in engines if not is_closed(app)]
        assert len(left) == 1
        final = opened(path, replace=True).start()
        assert final.trigger_and_wait(quick, timeout=HANG_S).output == 7
        assert all(map(is_closed, engines))
        final.close()
        assert check(path, is_idle=True, is_finished=True) == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
    def test_a_forked_child_has_no_engine_to_replace(self, path: Path, opened: Any) -> None:
        """Its parent's engine stays as it is, and the child opens one of its own."""
        app = opened(path).start()
        child = os.fork()
        if child == 0:
            try:
                own = Durably(path, jobs=[quick], replace=True)
                is_fine = own.start().trigger_and_wait(quick, timeout=HANG_S).output == 7
                own.close()
                os._exit(0 if is_fine else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert app.trigger_and_wait(quick, timeout=HANG_S).output == 7

    def test_ctrl_c_anywhere_in_it(self, path: Path, seed: int) -> None:
        """After a Ctrl-C at any instruction of a replacement, the next one works."""

        def opening(name: str) -> Callable[[], object]:
            file = path.with_name(name)
            before = Durably(file, jobs=[quick], synchronous="normal").start()
            before.trigger_and_wait(quick)
            return lambda: Durably(file, jobs=[quick], synchronous="normal", replace=True)

        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        tracing = sys.gettrace()
        try:
            counting = SignalAt(signal.SIGINT, (KeyboardInterrupt,), 0)
            counting.during(opening("counted.db"))
            step = counting.passed // 12
            for point in range(1 + seed % step, counting.passed, step):
                ctrl_c = SignalAt(signal.SIGINT, (KeyboardInterrupt,), point)
                ctrl_c.during(opening(f"{point}.db"))
                file = path.with_name(f"{point}.db")
                with Durably(file, jobs=[quick], replace=True) as app:
                    assert app.trigger_and_wait(quick, timeout=20).output == 7, ctrl_c.where
                assert names_of_threads() == [], ctrl_c.where
                assert check(file, is_idle=True, is_finished=True) == [], ctrl_c.where
        finally:
            sys.settrace(tracing)
            signal.signal(signal.SIGINT, handler)


def all_removed(path: Path) -> None:
    for each in path.parent.glob("x.db*"):
        each.unlink()


def file_removed(path: Path) -> None:
    path.unlink()


def wal_removed(path: Path) -> None:
    path.with_name("x.db-wal").unlink()


def index_removed(path: Path) -> None:
    path.with_name("x.db-shm").unlink()


def folder_made_anew(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


def replaced_by_another(path: Path) -> None:
    other = path.with_name("other.db")
    Durably(other).close()
    other.replace(path)


LOSSES = pytest.mark.parametrize(
    "lose",
    [
        all_removed,
        file_removed,
        wal_removed,
        index_removed,
        folder_made_anew,
        replaced_by_another,
    ],
)


@pytest.mark.usefixtures("session")
class TestTheEngineOfOneCall:
    def test_is_beside_the_others(self, path: Path, opened: Any, warned: Warned) -> None:
        """durably.run() closes none, and one that is opened meanwhile does not stop its run."""
        held = HeldJob()
        first = opened(path)
        running = Call(lambda: durably.run(held.job, 7, db=path))
        held.inside()
        assert not is_closed(first)
        second = opened(path)
        assert is_closed(first)
        held.let_all_go()
        assert running.result() == 7
        assert not is_closed(second)
        assert len(warned()) == 1

    def test_replaces_on_request(self, path: Path, opened: Any) -> None:
        """replace=True decides explicitly."""
        first = opened(path)
        assert durably.run(quick, db=path, replace=True) == 7
        assert is_closed(first)

    def test_replaces_one_that_has_lost_the_file(
        self, path: Path, opened: Any, warned: Warned
    ) -> None:
        """The file is made anew, and the line does not propose what would raise."""
        first = opened(path)
        file_removed(path)
        assert durably.run(quick, db=path) == 7
        assert is_closed(first)
        (line,) = warned()
        assert line.endswith("the file of the one before was moved, deleted or replaced")


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved")
def test_a_start_says_that_the_folder_was_moved(path: Path, opened: Any) -> None:
    """It says more than that the lock of the engine cannot be made there."""
    app = opened(path)
    path.parent.rename(path.parent.with_name("elsewhere"))
    with pytest.raises(DatabaseLostError):
        app.start()
    app.close()


@LOSSES
@pytest.mark.parametrize("is_started", [False, True], ids=["open", "started"])
class TestAFileThatWasRemoved:
    def test_the_error_names_the_engine_that_has_it(
        self, path: Path, opened: Any, lose: Callable[[Path], None], *, is_started: bool
    ) -> None:
        """Opened anew beside it, the file is not made, and the engine can be closed first."""
        app = opened(path, synchronous="full")
        if is_started:
            app.start()
        app.trigger(quick)
        lose(path)
        before = sorted(path.parent.glob("x.db"))
        with pytest.raises(DatabaseLostError) as caught:
            opened(path)
        assert repr(app) in str(caught.value)
        assert "replace=True" in str(caught.value)
        assert "Close that engine" in str(caught.value)
        assert sorted(path.parent.glob("x.db")) == before
        app.close()
        assert opened(path).start().trigger_and_wait(quick, timeout=HANG_S).output == 7

    @pytest.mark.usefixtures("session")
    def test_a_session_closes_that_engine(
        self, path: Path, opened: Any, lose: Callable[[Path], None], *, is_started: bool
    ) -> None:
        """The cell that opens the file makes a new one, and the old engine is closed."""
        app = opened(path, synchronous="full")
        if is_started:
            app.start()
        app.trigger(quick)
        lose(path)
        second = opened(path).start()
        assert is_closed(app)
        assert second.trigger_and_wait(quick, timeout=HANG_S).output == 7
        second.close()
        assert check(path) == []


def test_an_opening_that_ctrl_c_ends_leaves_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that still has the exception, and so its frames, opens the file again."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as raised:
        patched.setattr("durably.entry.wiring.deliver", interrupt)
        durably.Durably(tmp_path / "x.db")
    with durably.Durably(tmp_path / "x.db") as app:
        assert app.get_runs() == []
    assert raised.value.__traceback__ is not None
