"""What the logger ``durably`` says of runs: a line each, with the run's short name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child, execute
from engines import engine, take_over
from held import HeldJob

import durably
from durably._platform.spans import span
from durably.worker import run_log

WAYS = ["run", "process_one", "run_until_idle", "started"]


@durably.job("nightly-import")
def nightly(step: durably.StepContext, fails_at: int) -> int:
    for number in range(8):
        step.run(f"batch-{number}", insert, number, fails_at + step.attempt)
    return 8


def insert(number: int, fails_at: int) -> int:
    if number == fails_at:
        raise ValueError(f"bad row\n{number}")
    return number


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was logged since the last call, with the levels."""
    caplog.set_level(logging.INFO, "durably")

    def since() -> list[str]:
        found = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return found

    return since


def name(run: Any) -> str:
    key = "" if run.idempotency_key is None else f" {run.idempotency_key}"
    return f"…{run.id[-4:]} {run.job_name}{key}"


def bring_to_an_end(app: durably.Durably, way: str, fails_at: int, key: str | None = None) -> Any:
    """Trigger a run and execute it in one of the WAYS; return it as it ended."""
    if way == "run":
        try:
            return app.run(nightly, fails_at, key=key)
        except durably.RunFailedError as failed:
            return failed.run
    run = app.trigger(nightly, fails_at, idempotency_key=key)
    if way == "process_one":
        assert app.process_one()
    elif way == "run_until_idle":
        app.run_until_idle(raise_failed=False)
    else:
        app.start()
        list(app.as_completed([run]))
    return app.get_run(run)


def without_times(found: list[str]) -> list[str]:
    return [re.sub(r" in \d+\.\d s:", " in … s:", line) for line in found]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", [None, "users-2026-11-28"])
def test_a_run_that_goes_well_is_two_lines(
    tmp_path: Path, lines: Callable[[], list[str]], way: str, key: str | None
) -> None:
    """It starts, and it completes with its time and the number of its steps."""
    with engine(tmp_path, nightly) as app:
        run = bring_to_an_end(app, way, 99, key)
        app.stop()
        found = lines()
    assert found[0] == f"INFO {name(run)} started"
    assert without_times(found[1:]) == [
        f"INFO {name(run)} completed in … s: 8 steps, 0 from checkpoints"
    ]


def test_a_session_that_goes_well_is_two_lines(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """Its lines are those of any other run."""
    with durably.session("import", tmp_path / "x.db") as step:
        step.run("one", int)
        run = step.get_run()
    found = lines()
    assert without_times(found) == [
        f"INFO {name(run)} started",
        f"INFO {name(run)} completed in … s: 1 step, 0 from checkpoints",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_says_what_is_stored(
    tmp_path: Path, lines: Callable[[], list[str]], way: str
) -> None:
    """How many steps, in which attempt; at the end, how many of them were not executed again."""
    with engine(tmp_path, nightly) as app:
        run = bring_to_an_end(app, way, 4, "k")
        lines()
        app.retry(run)
        bring_to_an_end(app, way, 4, "k")
        app.stop()
        found = lines()
    # The end of the first attempt may be logged when a call has returned it.
    assert found[-2:] == [
        f"INFO {name(run)} resumed: 5 of its steps are stored, attempt 2",
        (
            f"ERROR {name(run)} failed in step 'batch-6' after 6 completed steps: ValueError: bad "
            f"row\\n6. Fix the cause, then call retry({run.id!r})"
        ),
    ]


def test_a_resumed_run_without_a_key_says_when_it_was_begun(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """``run`` finds it by its payload: nothing else says which one that is."""
    with engine(tmp_path, nightly) as app:
        run = bring_to_an_end(app, "run", 4)
        lines()
        bring_to_an_end(app, "run", 4)
        begun = f"{run.created_at.astimezone():%H:%M}"
        assert lines()[0] == (
            f"INFO {name(run)} resumed: 5 of its steps are stored, attempt 2, begun at {begun}"
        )


def test_steps_are_counted_by_how_they_got_their_result(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """One that is executed again after a failure is not from a checkpoint, nor is a reused one."""

    def job(step: durably.StepContext) -> None:
        for number in range(2500):  # more than are read at once
            step.run(f"s{number}", int)
        try:
            step.run("fails first", insert, step.attempt, 1)
        except ValueError:
            step.run("handled", int)
        step.run("fails first", insert, 2, 1)
        step.run("s0", int)  # with on_duplicate_step="reuse"
        if step.attempt == 1:
            raise RuntimeError
        step.run("new", int)

    with engine(tmp_path, job, on_duplicate_step="reuse", preserve_steps=False) as app:
        run = app.trigger("job")
        with pytest.warns(durably.DuplicateStepWarning):
            app.process_one()
        app.retry(run)
        with pytest.warns(durably.DuplicateStepWarning):
            app.process_one()
        found = lines()
    assert "failed after 2502 completed steps: RuntimeError. " in found[1]
    assert "resumed: 2502 of its steps are stored, attempt 2, begun at " in found[2]
    assert found[3].endswith(": 2502 steps, 2501 from checkpoints")


def test_a_failure_has_the_frames_of_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Below its line, as for any logged exception; none of them is durably's."""
    with engine(tmp_path, nightly) as app:
        run = bring_to_an_end(app, "process_one", 1)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    text = logging.Formatter().format(record)
    line, *frames = text.splitlines()
    assert line.startswith(f"{name(run)} failed in step 'batch-2' after 2 completed steps: ")
    assert frames[0] == "Traceback (most recent call last):"
    assert frames[-1] == "2"  # of the message, whose first line is before it
    assert [re.search(r"in (\w+)$", each)[1] for each in frames if each.startswith("  File")] == [  # type: ignore[index]
        "nightly",
        "insert",
    ]
    assert run.error is not None
    assert "\n".join(frames) == run.error.traceback.rstrip("\n")
    # The exception would keep what is in its frames alive as long as a handler keeps the record.
    assert record.exc_info is None
    assert record.run_id == run.id  # type: ignore[attr-defined]


def test_a_line_stays_one_line(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """Whatever is in a key or an error: it cannot forge another line, nor act on a terminal."""

    def job(step: durably.StepContext) -> None:
        raise ValueError("x\n…AAAA other completed\x1b[2J\u202e")

    with engine(tmp_path, job) as app:
        app.trigger("job", idempotency_key="k\r\nERROR\x1b[31m")
        app.process_one()
        found = lines()
    assert len(found) == 2
    for line in found:
        assert line.isprintable()
        assert "k\\r\\nERROR\\x1b[31m" in line
    assert "x\\n…AAAA other completed\\x1b[2J\\u202e. Fix" in found[1]


def test_long_texts_are_cut(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """A line has some hundred characters; the traceback below it has the whole error."""

    def job(step: durably.StepContext) -> None:
        raise ValueError("x" * 10_000)

    with engine(tmp_path, job) as app:
        app.trigger("job", idempotency_key="k" * 400)
        app.process_one()
        assert max(map(len, lines())) < 500


def test_an_interrupted_run_goes_back(
    tmp_path: Path, lines: Callable[[], list[str]], held: HeldJob
) -> None:
    """The line says what is stored."""
    with engine(tmp_path, held.job) as app:
        run = app.trigger(held.job)
        app.start()
        held.inside()
        app._supervisor._claimer.drain(interrupt=True)
        held.let_all_go()
        app.stop(interrupt=True)
        found = lines()
        assert found == [
            f"INFO {name(run)} started",
            f"INFO {name(run)} put back to pending: 2 of its steps are stored",
        ]
        app.run_until_idle()
        begun = f"begun at {run.created_at.astimezone():%H:%M}"
        resumed = f"INFO {name(run)} resumed: 2 of its steps are stored, attempt 1, {begun}"
        assert lines()[0] == resumed


def test_a_cancelled_run_has_an_end_too(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """When its job has left its thread."""
    with engine(tmp_path) as app, HeldJob() as held:
        app.register(held.job)
        app.start()
        run = app.trigger(held.job, 1)
        held.inside()
        app.cancel(run)
        held.let_go()
        app.stop()
        assert lines() == [
            f"INFO {name(run)} started",
            f"INFO {name(run)} cancelled: 1 of its steps is stored",
        ]


def test_a_run_that_another_engine_has_recovered_is_a_warning(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """This process was taken for hung."""
    with engine(tmp_path) as app, HeldJob() as held:
        app.register(held.job)
        app.start()
        run = app.trigger(held.job, 1)
        held.inside()
        take_over(app)
        app._supervisor._claimer.drain(interrupt=False)
        held.let_go(2)
        app.stop(interrupt=True)
        found = [line for line in lines() if line.startswith("WARNING")]
    (line,) = found
    assert line == (
        f"WARNING {name(run)} was recovered by another engine while its job was executed here, "
        "because this process gave no sign of life for too long; raise stale_threshold if it may "
        "be kept from working for longer"
    )


@pytest.mark.parametrize("wait", [0, 3600])
def test_a_run_that_is_tried_again_is_a_warning(
    tmp_path: Path, lines: Callable[[], list[str]], wait: float
) -> None:
    """It says after what, and when; one that asks to be called later is no warning."""
    asked = []

    def job(step: durably.StepContext) -> None:
        step.run("first", int)
        if not asked:
            asked.append(1)
            raise durably.RetryAfter(3600, "quota used up")
        step.run("second", divmod, 1, 0)

    retry = durably.Retry(attempts=2, wait=wait, jitter=False)
    with engine(tmp_path, durably.Job("job", job, retry=retry)) as app:
        run = app.trigger("job")
        app.process_one()
        with pytest.raises((durably.WaitTimeoutError, durably.RunFailedError)):
            app.run("job", timeout=0.2 if wait else None)
        found = lines()
    when = "at once" if not wait else r"at \d\d\d?\d?[:-].*"
    assert re.fullmatch(
        rf"INFO {name(run)} asks to go on at .* \(quota used up\): 1 of its steps is stored",
        found[1],
    )
    tried = next(line for line in found if line.startswith("WARNING"))
    assert re.fullmatch(
        rf"WARNING {name(run)} failed in step 'second' after 1 completed step: "
        rf"ZeroDivisionError: .*\. It is tried again {when}",
        tried,
    )


def test_an_overdue_run_is_an_error_once(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """When it is failed; the end of its job says nothing more."""
    with engine(tmp_path, raise_failed=False) as app, HeldJob() as held:
        app.start()
        run = app.trigger(durably.Job("held", held.run), 1, timeout=0.1)
        held.inside()
        with pytest.raises(durably.RunFailedError):
            app.wait(run, timeout=20)
        held.let_go()
        app.stop()
        found = [line for line in lines() if not line.startswith("INFO")]
    assert len(found) == 1
    assert "failed in step 'second' after 1 completed step: durably.StepTimeout" in found[0]


def test_a_run_of_a_dead_process_is_a_warning(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """It says what is stored, and the run continues."""
    execute("dies_in_a_batch", "durably.db", folder=tmp_path)

    def nightly(step: durably.StepContext) -> int:
        return sum(step.run(f"batch-{number}", int) for number in range(8))

    job = durably.Job("nightly-import", nightly, origin="any")
    with engine(tmp_path, job) as app:
        app.run_until_idle()
        (run,) = app.get_runs()
        found = without_times(lines())
    assert found == [
        (
            f"WARNING {name(run)} recovered: the process that executed it has died. It continues: "
            "3 of its steps are stored"
        ),
        f"INFO {name(run)} resumed: 3 of its steps are stored, attempt 2",
        (
            f"INFO {name(run)} its code has changed since attempt 1; 3 completed steps keep their "
            "results"
        ),
        f"INFO {name(run)} completed in … s: 8 steps, 3 from checkpoints",
    ]


def test_a_session_that_its_program_opens_again_after_a_death_is_no_warning(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """What the program goes on with at once is said, and needs nobody."""
    path = tmp_path / "s.db"
    with Child("opens_a_session", path) as child:
        child.say("step one")
        for said in ("open 0", "executes one", "stored one"):
            child.expect(said)
        child.kill()
    with durably.session("script", path) as step:
        run = step.get_run()
    assert without_times(lines())[0] == (
        f"INFO {name(run)} recovered: the process that executed it has died. It continues: "
        "1 of its steps is stored"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (43.24, "43.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (61, "1 min 1 s"),
        (119.7, "2 min 0 s"),
        (3552, "59 min 12 s"),
        (3599.6, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (90061, "25 h 1 min"),
        (7199, "1 h 59 min"),
    ],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    """They have tenths of a second below a minute, and minutes above an hour."""
    assert span(seconds, brief_s=60) == text


def test_a_time_is_rounded_before_its_precision_is_chosen() -> None:
    """Ten seconds have no tenths where shorter times have."""
    assert [span(seconds) for seconds in (9.94, 9.96, 10)] == ["9.9 s", "10 s", "10 s"]


# -- what it costs, and what it must not do ----------------------------------------------------


def test_lines_that_nobody_gets_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the level of the logger no line is made: a resume reads no more than it did."""
    with engine(tmp_path, nightly) as app:
        run = bring_to_an_end(app, "process_one", 4)
        app.retry(run)

        def must_not_be_called(*_: object) -> None:
            raise AssertionError

        monkeypatch.setattr(app._supervisor._executor._run_log, "_read", must_not_be_called)
        monkeypatch.setattr(run_log, "short_name", must_not_be_called)
        monkeypatch.setattr(logging.getLogger("durably"), "level", logging.CRITICAL)
        logging.getLogger("durably").manager._clear_cache()  # type: ignore[attr-defined]
        assert app.process_one()
        monkeypatch.undo()
        logging.getLogger("durably").manager._clear_cache()  # type: ignore[attr-defined]


class _Failing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(record)


@pytest.fixture
def failing_handler() -> Iterator[None]:
    logger = logging.getLogger("durably")
    handler, level = _Failing(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.usefixtures("failing_handler")
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_raises_harms_no_run(tmp_path: Path, way: str) -> None:
    """The run ends as it would have."""
    with engine(tmp_path, nightly) as app:
        assert bring_to_an_end(app, way, 99).status == "completed"
        assert bring_to_an_end(app, way, 1).status == "failed"


# -- where logging is not configured -----------------------------------------------------------

CALLS = ("run", "trigger_and_wait", "trigger", "process_one", "as_completed")
SILENCED = (
    "by disable",
    "without lastResort",
    "disabled",
    "by its level",
    "by a filter",
    "by a handler",
)


def failed(folder: Path, call: str, *how: str) -> tuple[str, str]:
    """Return what ``programs/logs_a_failure.py`` writes to its error output, and to its log."""
    done = execute("logs_a_failure", call, *how, folder=folder)
    assert done.returncode == ("uncaught" in how), done.stderr
    log = folder / "log.txt"
    return done.stderr, log.read_text(encoding="utf-8") if log.exists() else ""


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_is_printed_unless_a_call_raises_it(tmp_path: Path, call: str) -> None:
    """Once, with the frames: by the exception that a call raises, or by the line."""
    errors, _ = failed(tmp_path, call)
    if call in ("run", "trigger_and_wait"):
        assert errors == ""
    else:
        line, *frames = errors.splitlines()
        assert re.match("….{4} nightly failed in step 'insert' after 1 completed step: Val", line)
        assert frames[-1] == "ValueError: bad row"
        assert sum("logs_a_failure.py" in each for each in frames) == 2


@pytest.mark.parametrize("call", CALLS)
def test_a_log_has_every_failure(tmp_path: Path, call: str) -> None:
    """Also what a call raises, once logging is configured."""
    errors, log = failed(tmp_path, call, "log")
    assert errors == ""
    assert len(re.findall(r"^INFO:durably:….{4} nightly started$", log, re.MULTILINE)) == 1
    assert len(re.findall(r"^ERROR:durably:….{4} nightly failed in step", log, re.MULTILINE)) == 1
    assert log.count("ValueError: bad row\n") == 1


@pytest.mark.parametrize("silenced", SILENCED)
def test_failures_that_nobody_has_seen_are_printed_with_their_frames_without_a_log(
    tmp_path: Path, silenced: str
) -> None:
    """By the error that nothing handles, if the program has silenced the logger."""
    errors, _ = failed(tmp_path, "trigger three", "uncaught", silenced)
    lines = errors.splitlines()
    assert sum(each.startswith("3 runs have failed, and no call") for each in lines) == 1
    assert lines.count("ValueError: bad row") == 1
    assert sum("logs_a_failure.py" in each for each in lines) == 2


@pytest.mark.parametrize("arguments", [(), ("log",)], ids=["not configured", "configured"])
def test_failures_that_nobody_has_seen_are_printed_with_their_frames_once(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """By their lines as they fail; if those go to a log, by the error that nothing handles."""
    errors, _ = failed(tmp_path, "trigger three", "uncaught", *arguments)
    lines = errors.splitlines()
    summary = [each for each in lines if each.startswith("3 runs have failed, and no call")]
    assert len(summary) == 1
    assert lines.count("ValueError: bad row") == (1 if arguments else 3)
    assert sum("logs_a_failure.py" in each for each in lines) == (2 if arguments else 6)
    assert "durably/" not in errors
    assert "Exception Group" not in errors


def test_a_session_that_fails_is_printed_by_its_exception(tmp_path: Path) -> None:
    """The exception leaves the block of the session."""
    assert failed(tmp_path, "session") == ("", "")


def test_a_run_that_goes_well_prints_nothing(tmp_path: Path) -> None:
    """What is below a warning is not printed where logging is not configured."""
    assert failed(tmp_path, "run", "completes") == ("", "")
