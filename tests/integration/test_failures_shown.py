"""What a failure shows of a job: the frames of the user, and none of durably."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, validators
from damage import change

import durably
from durably import events
from durably._platform.tracebacks import frames_in


@define
class Row:
    """A payload and a result with a validator."""

    number: int = field(validator=validators.gt(0))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    with durably.Durably(tmp_path / "shown.db") as opened:
        yield opened


def fetch(number: int) -> float:
    return 1 / (number - 2)


def own_frames(text: str) -> list[str]:
    """The names of the functions in a recorded traceback, which are of this file alone."""
    frames = [line for line in frames_in(text) if line.startswith("  File ")]
    assert all(__file__ in line for line in frames), text
    return [line.rpartition(" in ")[2] for line in frames]


def fails_in_a_step(step: durably.StepContext) -> None:
    for number in range(4):
        step.run(f"page-{number}", fetch, number)


def fails_in_nested_steps(step: durably.StepContext) -> None:
    step.run("outer", nested, step)


def nested(step: durably.StepContext) -> None:
    step.run("inner", fetch, 2)


def fails_outside_of_steps(step: durably.StepContext) -> None:
    step.run("first", int)
    fetch(2)


def retries(step: durably.StepContext) -> None:
    step.options(retry=durably.Retry(attempts=2, wait=0)).run("a", fetch, 2)


def calls_with_too_few_arguments(step: durably.StepContext) -> None:
    step.run("a", fetch)


def calls_what_has_no_frames(step: durably.StepContext) -> None:
    step.run("a", int, "x")


def uses_a_name_twice(step: durably.StepContext) -> None:
    step.run("a", int)
    step.run("a", int)


def returns_what_cannot_be_stored(step: durably.StepContext) -> None:
    step.run("a", object)


def gives_a_wrong_name(step: durably.StepContext) -> None:
    step.run("a\n", int)


def triggers_wrongly(step: durably.StepContext) -> None:
    OPEN[0].trigger(5)


def calls_wrongly(step: durably.StepContext) -> None:
    OPEN[0].get_runs(nothing=1)


OPEN: list[Any] = []

JOBS: dict[Callable[..., Any], list[str]] = {
    fails_in_a_step: ["fails_in_a_step", "fetch"],
    fails_in_nested_steps: ["fails_in_nested_steps", "nested", "fetch"],
    fails_outside_of_steps: ["fails_outside_of_steps", "fetch"],
    retries: ["retries", "fetch"],
    calls_with_too_few_arguments: ["calls_with_too_few_arguments"],
    calls_what_has_no_frames: ["calls_what_has_no_frames"],
    uses_a_name_twice: ["uses_a_name_twice"],
    returns_what_cannot_be_stored: ["returns_what_cannot_be_stored"],
    gives_a_wrong_name: ["gives_a_wrong_name"],
    triggers_wrongly: ["triggers_wrongly"],
    calls_wrongly: ["calls_wrongly"],
}


@pytest.mark.parametrize("function", JOBS, ids=lambda each: each.__name__)
def test_a_recorded_traceback_shows_the_frames_of_the_user_alone(
    app: durably.Durably, function: Callable[..., Any]
) -> None:
    """Those of the job and of its steps, whatever has gone wrong."""
    OPEN[:] = [app]
    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(durably.job(function))
    error = caught.value.run.error
    assert error is not None
    assert own_frames(error.traceback) == JOBS[function]
    for step in app.get_steps(caught.value.run):
        if step.error is not None:
            # It begins in the function of the step.
            assert own_frames(step.error.traceback) in (JOBS[function][1:], ["fetch"])


def test_threads_of_a_job_are_the_users(app: durably.Durably) -> None:
    """With what runs them, as in a program without durably."""

    @durably.job
    def threads(step: durably.StepContext) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(step.run, "a", fetch, 2).result()

    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(threads)
    assert caught.value.run.error is not None
    text = caught.value.run.error.traceback
    assert "concurrent" in text
    assert "step_runner" not in text
    assert text.index("in threads") < text.index("in fetch")


def test_an_error_of_a_result_shows_no_frame(app: durably.Durably) -> None:
    """The job has returned by then; and no private object is shown."""

    @durably.job
    def bad(step: durably.StepContext) -> Row:
        return "x"  # type: ignore[return-value]

    @durably.job
    def untyped(step: durably.StepContext) -> Any:
        return [object()]

    for job in (bad, untyped):
        with pytest.raises(durably.RunFailedError) as caught:
            app.trigger_and_wait(job)
        error = caught.value.run.error
        assert error is not None
        assert error.type == "durably.SerializationError"
        assert error.traceback == f"{error}\n"


@pytest.mark.parametrize("payload", [{"number": 0}, {"number": "1"}, {}, 5, {"number": 1, "x": 1}])
def test_a_validation_error_has_no_cause(app: durably.Durably, payload: Any) -> None:
    """Nothing private is in its trace."""

    @durably.job
    def takes(step: durably.StepContext, row: Row) -> None: ...

    @durably.job
    def takes_anything(step: durably.StepContext, row: Any) -> None: ...

    calls = [
        lambda: app.trigger(takes, payload),
        lambda: app.batch_trigger(takes, [payload]),
        lambda: app.trigger_and_wait(takes, payload),
        lambda: app.batch_trigger(takes_anything, [{"a": object()}]),
        lambda: app.trigger(takes_anything, {"a": object()}),
    ]
    for call in calls:
        with pytest.raises(durably.ValidationError) as caught:
            call()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_notes_of_an_error_are_stored(
    app: durably.Durably, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """With the run and with the step."""

    def noted() -> None:
        error = ValueError("x")
        error.add_note("in row 7")
        error.add_note("second\nlines")
        raise error

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("a", noted)

    seen: list[durably.ErrorInfo] = []
    app.on(events.RunFailed, lambda event: seen.append(event.error))
    app.on(events.StepFailed, lambda event: seen.append(event.error))
    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(job)
    eventually(lambda: len(seen) == 2)  # the call may return before its listener is called
    (step,) = app.get_steps(caught.value.run)
    for error in (caught.value.run.error, step.error, *seen):
        assert error is not None
        assert error.notes == ("in row 7", "second\nlines")
        assert error.traceback.endswith("ValueError: x\nin row 7\nsecond\nlines\n")
    assert caught.value.run.error == seen[1]


def test_an_error_that_was_stored_without_notes_has_none(
    app: durably.Durably, tmp_path: Path
) -> None:
    """durably 0.1 stored errors without notes."""

    @durably.job
    def job(step: durably.StepContext) -> None:
        raise ValueError("x")

    with pytest.raises(durably.RunFailedError) as caught:
        app.trigger_and_wait(job)
    old = json.dumps({"type": "E", "message": "m", "traceback": "t", "failed_step": None})
    change(tmp_path / "shown.db", f"UPDATE durably_runs SET error = '{old}'")
    run = app.get_run(caught.value.run)
    assert run is not None
    assert run.error == durably.ErrorInfo("E", "m", "t")
    assert run.error.notes == ()


def test_the_log_of_a_listener_that_raises_shows_the_listener_alone(
    app: durably.Durably, caplog: pytest.LogCaptureFixture
) -> None:
    """The logs of an error handler that raises and of a failed step in a job do so, too."""

    def listener(event: object) -> None:
        fetch(2)

    def handler(exc: BaseException, event: object) -> None:
        fetch(2)

    @durably.job
    def logs(step: durably.StepContext) -> None:
        try:
            step.run("a", fetch, 2)
        except ZeroDivisionError:
            step.log.exception("failed")
            logging.getLogger("mine").exception("failed")

    app.on(events.RunStarted, listener)
    app.trigger_and_wait(logs)
    app.on_error(handler)
    app.trigger_and_wait(logs)
    shown = [record.exc_text for record in caplog.records if record.exc_info]
    assert len(shown) == 6
    for text in shown:
        assert text is not None
        assert own_frames(text)[-1] == "fetch"
        assert own_frames(text)[0] in {"listener", "handler", "logs"}
