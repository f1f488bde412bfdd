"""Ctrl-C and other signals while ``app.run`` executes a run in the main thread."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import pytest
from calls import HANG_S, Call, names_of_threads
from children import PROGRAMS, Child
from engines import engine, record, types
from held import HeldJob
from interrupting import press_in_a_wait
from invariants import check

import durably
from durably import Durably

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of a script that ends in order by SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(4)

    before = [
        (number, signal.signal(number, handler))
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, leave),
        )
    ]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    with engine(tmp_path) as app:
        yield app
    assert check(tmp_path / "durably.db", is_idle=True) == []


class Once:
    """Raises a signal at its first call."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self._number = number
        self.is_due = True

    def __call__(self) -> None:
        if self.is_due:
            self.is_due = False
            signal.raise_signal(self._number)


def interrupted(app: Durably, job: Any, *raised: type[BaseException]) -> BaseException:
    """Return what leaves ``app.run``; the run is pending, and nothing else of the call is left."""
    with pytest.raises(raised or KeyboardInterrupt) as left:
        app.run(job, key="k")
    (run,) = app.get_runs()
    assert run.status == "pending"
    assert names_of_threads() == []
    return left.value


def note_of(exc: BaseException) -> str:
    (note,) = exc.__notes__
    return note


def in_a_step(step: durably.StepContext, press: Callable[[], None]) -> None:
    step.run("press", press)


def in_a_step_with_retries(step: durably.StepContext, press: Callable[[], None]) -> None:
    step.options(retry=durably.Retry(attempts=3, wait=0.0)).run("press", press)


def in_a_nested_step(step: durably.StepContext, press: Callable[[], None]) -> None:
    step.run("outer", step.run, "press", press)


def in_a_step_that_is_swallowed(step: durably.StepContext, press: Callable[[], None]) -> None:
    try:
        step.run("press", press)
    except:  # noqa: E722 - what people write
        step.run("never", int)


class LostError(Exception):
    """What a library makes of whatever has ended its work."""


def in_a_step_that_makes_it_an_error(step: durably.StepContext, press: Callable[[], None]) -> None:
    def ask() -> None:
        try:
            press()
        except BaseException as exc:
            raise LostError from exc

    step.run("press", ask)


def in_a_step_that_retries_what_it_makes_of_it(
    step: durably.StepContext, press: Callable[[], None]
) -> None:
    in_a_step_that_makes_it_an_error(step.options(retry=durably.Retry(attempts=3, wait=0.0)), press)


def in_a_step_that_groups_it(step: durably.StepContext, press: Callable[[], None]) -> None:
    def ask() -> None:
        caught: list[BaseException] = []
        try:
            press()
        except BaseException as exc:
            caught.append(exc)
        if caught:
            raise BaseExceptionGroup("tasks", caught)

    step.run("press", ask)


def in_an_error_that_is_kept(step: durably.StepContext, press: Callable[[], None]) -> None:
    try:
        in_a_step_that_makes_it_an_error(step, press)
    except BaseException:
        return


def in_an_item_of_a_map_that_makes_it_an_error(
    step: durably.StepContext, press: Callable[[], None]
) -> None:
    def ask(_: int) -> None:
        try:
            press()
        except BaseException as exc:
            raise LostError from exc

    step.map("press", ask, [0, 1])


def in_an_error_of_the_job(_: durably.StepContext, press: Callable[[], None]) -> None:
    try:
        press()
    except BaseException as exc:
        raise LostError from exc


def in_a_sleep_of_a_step(step: durably.StepContext, press: Callable[[], None]) -> None:
    def sleep() -> None:
        if getattr(press, "is_due", True):
            vars(press)["is_due"] = False
            press_in_a_wait()
            step.sleep(HANG_S)

    step.run("press", sleep)


def between_steps(step: durably.StepContext, press: Callable[[], None]) -> None:
    press()


IN_A_STEP = [
    in_a_step,
    in_a_step_with_retries,
    in_a_nested_step,
    in_a_step_that_is_swallowed,
    in_a_step_that_makes_it_an_error,
    in_a_step_that_retries_what_it_makes_of_it,
    in_a_step_that_groups_it,
    in_an_error_that_is_kept,
    in_a_sleep_of_a_step,
]


@pytest.mark.parametrize(
    "where", [*IN_A_STEP, between_steps, in_an_error_of_the_job], ids=lambda each: each.__name__
)
def test_ctrl_c_leaves_the_step_at_once(
    app: Durably, where: Callable[[durably.StepContext, Callable[[], None]], None]
) -> None:
    """The run goes back with its checkpoints; the note says what is kept and how to go on."""
    press, calls = Once(), []

    @durably.job
    def job(step: durably.StepContext) -> int:
        for name in ("one", "two"):
            step.run(name, calls.append, name)
        where(step, press)
        return step.run("last", int)

    events = record(app)
    exc = interrupted(app, job)
    place = " in step 'press'" if where in IN_A_STEP else ""
    assert note_of(exc) == (f"stopped{place}; 2 completed steps are kept. Start it again to go on.")
    assert types(events)[-1] == "run:interrupt"
    assert [step.name for step in app.get_steps(app.get_runs()[0])] == ["one", "two"]
    run = app.run(job, key="k")
    assert (run.output, run.disposition, calls) == (0, "continued", ["one", "two"])


def test_an_item_of_a_map_that_makes_another_error_of_it(app: Durably) -> None:
    """No item has failed, and the map goes on at the next call."""
    press = Once()

    @durably.job
    def job(step: durably.StepContext) -> None:
        in_an_item_of_a_map_that_makes_it_an_error(step, press)

    interrupted(app, job)
    (run,) = app.get_runs()
    assert [step.status for step in app.get_steps(run)] in ([], ["running"])
    assert app.run(job, key="k").status == "completed"


def test_an_error_after_one_that_was_handled_fails_the_run(app: Durably) -> None:
    """A step that has handled an interrupt, and fails later of something else, has failed."""
    press = Once()

    def ask() -> None:
        with suppress(KeyboardInterrupt):
            press()
        raise LostError

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("ask", ask)

    with pytest.raises(durably.RunFailedError):
        app.run(job, key="k")


def test_before_the_first_step_has_completed(app: Durably) -> None:
    """The note says that nothing is kept."""

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("press", Once())

    assert "in step 'press'; 0 completed steps are kept" in note_of(interrupted(app, job))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_middle_of_a_commit_it_comes_after_it(
    app: Durably, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The checkpoint is stored, and the note says that the step has completed."""
    press, calls = Once(number), []
    save = app._store.checkpoints.save

    def saves(*row: Any) -> bool:
        is_stored = save(*row)
        press()
        return is_stored

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("one", calls.append, 1)
        step.run("two", calls.append, 2)

    monkeypatch.setattr(app._store.checkpoints, "save", saves)
    exc = interrupted(app, job, KeyboardInterrupt, SystemExit)
    assert note_of(exc) == (
        "stopped after step 'one'; 1 completed step is kept. Start it again to go on."
    )
    app.run(job, key="k")
    assert calls == [1, 2]


def test_sigterm_that_ends_the_program(app: Durably) -> None:
    """What its handler raises goes on to the caller, and the run is pending."""
    press = Once(signal.SIGTERM)

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("press", press)

    exc = interrupted(app, job, SystemExit)
    assert isinstance(exc, SystemExit)
    assert exc.code == 4
    assert "stopped in step 'press'" in note_of(exc)
    assert app.run(job, key="k").status == "completed"


def test_a_pool_of_the_job_is_interrupted(app: Durably) -> None:
    """Its failures, which the job collects, do not count."""
    press = Once()

    @durably.job
    def job(step: durably.StepContext) -> list[str]:
        failures = []
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(step.run, f"ask-{n}", int) for n in range(10)]
            for number, call in enumerate(as_completed(calls)):
                if (exc := call.exception()) is not None:
                    failures.append(type(exc).__name__)
                if number == 3:
                    press()
        return failures

    interrupted(app, job)
    assert app.run(job, key="k").output == []


def test_a_tool_that_dies_of_the_same_ctrl_c(tmp_path: Path) -> None:
    """In a terminal it reaches the tool as well: the step's failure is not the run's."""
    path = tmp_path / "runs.db"
    with Child("runs_here", path, "tool", has_group=True, with_errors=True) as child:
        child.expect("in the step")
        os.killpg(child.pid, signal.SIGINT)
        lines = [child.line()]
        while not lines[-1].startswith("stopped"):
            lines.append(child.line())
    assert lines[-1] == (
        "stopped in step 'tool'; 1 completed step is kept. Start it again to go on."
    )
    with Durably(path) as app:
        (run,) = app.get_runs()
        assert (run.status, run.error) == ("pending", None)


def test_a_step_in_progress_does_not_outlast_ctrl_c(tmp_path: Path) -> None:
    """A request that hangs is left at once, and one Ctrl-C is enough."""
    path = tmp_path / "runs.db"
    with Child("runs_here", path, "hang", with_errors=True) as child:
        child.expect("in the step")
        os.kill(child.pid, signal.SIGINT)
        while child.line() != "KeyboardInterrupt":
            pass
        child.expect("stopped in step 'hang'; 1 completed step is kept. Start it again to go on.")
    with Durably(path) as app:
        assert [run.status for run in app.get_runs()] == ["pending"]


@pytest.mark.parametrize("if_running", ["wait", "skip", "error"])
def test_a_predecessor_that_was_killed_is_continued(tmp_path: Path, if_running: Any) -> None:
    """It is never taken for running."""
    path = tmp_path / "runs.db"
    with Child("runs_here", path, "hang") as child:
        child.expect("in the step")
        child.kill()
    done = subprocess.run(
        [sys.executable, PROGRAMS / "runs_here.py", path, "quick", if_running],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "completed continued 3"


def test_a_process_that_dies_during_the_wait_is_continued_here(tmp_path: Path) -> None:
    """As soon as it is dead, by the call that has waited for it."""
    path = tmp_path / "runs.db"
    with Child("runs_here", path, "hang") as child:
        child.expect("in the step")
        with Child("runs_here", path, "quick", "wait") as other:
            other.expect("waits")
            child.kill()
            other.expect("completed continued 3")


def test_ctrl_c_during_a_wait_leaves_the_run_alone(app: Durably, tmp_path: Path) -> None:
    """It is executed elsewhere."""
    held = HeldJob()
    with engine(tmp_path) as other:
        call = Call(lambda: other.run(held.job, key="k"))
        held.inside()
        with pytest.raises(KeyboardInterrupt):
            pressing = press_in_a_wait()
            app.run(held.job, key="k")
        pressing.join()
        held.let_all_go()
        assert call.result().status == "completed"


class Pressed:
    """Sends SIGINT to this process after random times, until it is to stop."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng

    def soon(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.00005, 0.006))

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def test_a_session_of_interrupts(app: Durably, seed: int) -> None:
    """At any instant of a call: each step is computed and stored once, and the run comes to its
    end.
    """
    stored: list[int] = []

    def page(number: int) -> int:
        return number

    @durably.job
    def job(step: durably.StepContext) -> int:
        return sum(step.run(f"page-{n}", page, n) for n in range(30))

    app.on("step:complete", lambda event: stored.append(event.step_index))
    with Pressed(random.Random(seed)) as pressed:
        while True:
            try:
                pressed.soon()
                run = app.run(job, key="k")
                break
            except KeyboardInterrupt:
                continue
    assert run.output == sum(range(30))
    # An interrupt may come before the listener, never twice for a step.
    assert len(set(stored)) == len(stored)
    assert names_of_threads() == []


@pytest.mark.parametrize("call", ["run", "process_one"])
def test_a_forked_child_that_comes_back_ends(tmp_path: Path, call: str) -> None:
    """The call raises ForkedError in it, and the parent executes the run to its end."""
    with Child("forks_here", tmp_path / "runs.db", call) as child:
        child.expect("forked")
        child.expect("[('completed', 2)]")
