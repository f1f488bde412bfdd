"""The exception that has failed a job, with its frames, for those who wait for the run here."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from calls import Call
from held import HeldJob

import durably
from durably.execution.current_run import CurrentRun
from durably.execution.live_failures import LiveFailures

Eventually = Callable[[Callable[[], object]], None]


class Big:
    """What a frame of a job may hold."""


@durably.job
def failing(step: durably.StepContext) -> None:
    """Fail in a step, at once."""
    step.run("divide", lambda: 1 / 0)


def functions(exc: BaseException | None) -> list[str]:
    """The names of the functions in the traceback of *exc*."""
    assert exc is not None
    return [frame.name for frame in traceback.extract_tb(exc.__traceback__)]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    with durably.Durably(tmp_path / "live.db", jobs=[failing]) as opened:
        yield opened


def test_trigger_and_wait_raises_from_the_exception_of_the_job(app: durably.Durably) -> None:
    """Each time, however soon the job fails; and the trigger may find a run that failed before."""
    for _ in range(30):
        with pytest.raises(durably.RunFailedError) as caught:
            app.trigger_and_wait(failing)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert functions(caught.value.__cause__)[-1] == "<lambda>"
    for cause in (ZeroDivisionError, type(None), ZeroDivisionError):
        with pytest.raises(durably.RunFailedError) as caught:
            app.trigger_and_wait(
                failing, idempotency_key="k", retry_failed=cause is ZeroDivisionError
            )
        assert type(caught.value.__cause__) is cause


def test_wait_raises_from_the_exception_of_a_run_that_fails_meanwhile(
    app: durably.Durably, eventually: Eventually
) -> None:
    """Each thread that waits has it; a wait that begins later has none, and nothing is kept."""
    held = HeldJob()
    bigs: list[weakref.ref[Big]] = []

    @durably.job("gated")
    def gated(step: durably.StepContext) -> None:
        big = Big()
        bigs.append(weakref.ref(big))
        held.run(step)
        raise ValueError("later")

    run = app.register(gated).trigger()
    held.inside()
    watches = app._supervisor.local._live_failures._watches
    waiting = [Call(lambda: app.wait(run)) for _ in range(3)]
    eventually(lambda: len(watches) == 3)
    held.let_all_go()
    for call in waiting:
        error = call.result()
        assert isinstance(error, durably.RunFailedError)
        assert functions(error.__cause__)[-1] == "gated"
    del error
    assert not watches
    with pytest.raises(durably.RunFailedError) as caught:
        app.wait(run)
    assert caught.value.__cause__ is None
    del waiting, call
    gc.collect()
    assert bigs[0]() is None


def test_a_step_context_that_outlives_its_run_keeps_no_exception(app: durably.Durably) -> None:
    """Nor the variables of the frames in which it was raised."""
    contexts: list[durably.StepContext] = []
    bigs: list[weakref.ref[Big]] = []

    def fail() -> None:
        big = Big()
        bigs.append(weakref.ref(big))
        raise ValueError("too big")

    @durably.job
    def leaking(step: durably.StepContext) -> None:
        contexts.append(step)
        step.run("fail", fail)

    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(leaking)
    assert bigs[0]() is not None
    del caught
    gc.collect()
    assert bigs[0]() is None


def test_another_engine_of_the_file_has_the_recorded_error_alone(
    app: durably.Durably, tmp_path: Path
) -> None:
    """What it waits for is not executed by it."""
    with durably.Durably(tmp_path / "live.db") as other:
        run = app.trigger(failing)
        with pytest.raises(durably.RunFailedError) as caught:
            other.wait(run)
    assert caught.value.__cause__ is None
    assert str(caught.value.run.error).startswith("ZeroDivisionError")


def test_a_watch_knows_the_newest_attempt_alone(app: durably.Durably) -> None:
    """An attempt that fails elsewhere has no exception here, whatever failed here before."""
    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(failing)
    run = caught.value.run
    failures = LiveFailures()
    with failures.watched(None) as watch:
        failures.note("OTHER", run.attempt, KeyError())
        watch.watch_only(run.id)
        failures.note("ANOTHER", run.attempt, KeyError())
        failures.note(run.id, run.attempt, error := ValueError())
        assert watch.exception_of(run) is error
        assert watch.exception_of(attrs.evolve(run, attempt=run.attempt + 1)) is None
        assert watch.exception_of(attrs.evolve(run, id="OTHER")) is None
        assert watch.exception_of(attrs.evolve(run, id="ANOTHER")) is None
    failures.note(run.id, run.attempt, KeyError())
    assert watch.exception_of(run) is error


def test_what_an_execution_had_in_memory_is_freed_when_the_run_leaves(
    app: durably.Durably, eventually: Eventually
) -> None:
    """It is freed at once, and not by the next collection of the garbage collector."""
    runs: list[weakref.ref[CurrentRun]] = []

    @durably.job
    def stepping(step: durably.StepContext) -> int:
        runs.append(weakref.ref(step._run))
        return step.run("a", int, 1)

    gc.disable()
    try:
        app.trigger_and_wait(stepping)
        eventually(lambda: runs[0]() is None)
    finally:
        gc.enable()


def test_what_the_defaults_of_a_function_refer_to_is_freed_after_its_step(
    app: durably.Durably,
) -> None:
    """A loop binds large values with ``lambda big=big: ...``: a run keeps none of them alive."""
    bigs: list[weakref.ref[Big]] = []

    @durably.job
    def stepping(step: durably.StepContext) -> list[bool]:
        for number in range(2):
            big = Big()
            bigs.append(weakref.ref(big))
            step.run(f"by-position-{number}", lambda big=big: 1)
            step.run(f"by-name-{number}", lambda *, big=big: 1)
        del big
        gc.collect()
        return [ref() is None for ref in bigs]

    assert app.trigger_and_wait(stepping).output == [True, True]


def test_a_stored_result_that_does_not_fit_keeps_no_frame_of_the_job(
    app: durably.Durably, eventually: Eventually
) -> None:
    """What the job had in its frame is freed at once, and not by the garbage collector."""
    bigs: list[weakref.ref[Big]] = []

    def text() -> str:
        return "x"

    @durably.job
    def stepping(step: durably.StepContext) -> None:
        big = Big()
        bigs.append(weakref.ref(big))
        if len(bigs) == 1:
            step.run("a", int)
            raise ValueError
        with pytest.raises(durably.SerializationError, match="expected str, found int"):
            step.run("a", text)

    gc.disable()
    try:
        with pytest.raises(durably.RunFailedError):
            app.trigger_and_wait(stepping, idempotency_key="k")
        app.trigger_and_wait(stepping, idempotency_key="k", retry_failed=True)
        eventually(lambda: bigs[1]() is None)
    finally:
        gc.enable()
