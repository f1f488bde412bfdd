"""What a run reports of itself through its life, and what belongs to it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from engines import whole
from held import HeldJob, finish, other

import durably
from durably.plugins import LogPersistence


@attrs.define
class Size:
    """A payload and result of a type of its own."""

    width: int


class OwnError(Exception):
    """An error of the user's."""

    class Inner(Exception):  # noqa: N818
        """One inside it."""

        def __str__(self) -> str:
            raise RuntimeError("no text")


ERRORS: dict[str, BaseException] = {
    "builtin": ValueError("the text"),
    "own": OwnError("a", 1),
    "empty": ValueError(),
    "unprintable": OwnError.Inner(),
    "surrogate": ValueError("\ud800 \0"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("from inside"),
}


@durably.job
def double(step: durably.StepContext, payload: Size) -> Size:
    """Two steps and progress."""
    width = step.run("double", payload.width.__mul__, 2)
    step.progress(1, 2, "half")
    step.run("nothing", print, end="")
    step.progress(2, 2)
    return Size(width)


@durably.job
def raising(step: durably.StepContext, payload: str) -> None:
    """Raise what the payload names, inside a step."""

    def boom() -> None:
        raise ERRORS[payload]

    step.run("fine", int)
    step.run("boom", boom)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[double, raising, finish, other])
    yield opened
    opened.close()


def test_a_running_run_has_a_start_and_a_heartbeat(tmp_path: Path) -> None:
    """It is active, in its first attempt, and has neither an end nor a duration."""
    with durably.Durably(tmp_path / "durably.db") as app, HeldJob() as held:
        pending = app.register(held.job).trigger(1)
        held.inside()
        run = app.get_run(pending)
        held.let_go()
    assert (run.status, run.attempt) == (durably.RunStatus.RUNNING, 1)
    assert run.created_at <= run.started_at <= run.heartbeat_at
    assert run.updated_at >= run.created_at
    assert (run.completed_at, run.duration, run.output, run.error) == (None, None, None, None)
    assert (run.is_active, run.is_terminal, run.completed_steps) == (True, False, 1)


def test_the_heartbeat_of_a_running_run_moves(tmp_path: Path, eventually: Any) -> None:
    """heartbeat_at is when its process last said that it is alive."""
    with (
        durably.Durably(tmp_path / "durably.db", heartbeat_interval=0.05) as app,
        HeldJob() as held,
    ):
        run = app.register(held.job).trigger(1)
        held.inside()
        first = app.get_run(run).heartbeat_at
        eventually(lambda: app.get_run(run).heartbeat_at > first)
        held.let_go()


def test_a_completed_run_has_output_progress_and_duration(app: durably.Durably) -> None:
    """Its output has the job's type, and every instant is aware and in order."""
    run = app.jobs["double"].trigger(Size(4))
    assert app.process_one()

    done = app.get_run(run)

    assert (done.status, done.output, done.error) == ("completed", Size(8), None)
    assert isinstance(done.status, durably.RunStatus)
    assert done.progress == durably.Progress(2, 2, None)
    assert (done.completed_steps, done.attempt, done.is_terminal) == (2, 1, True)
    assert done.created_at <= done.started_at <= done.completed_at <= done.updated_at
    assert done.completed_at.utcoffset() == timedelta(0)
    assert done.duration == (done.completed_at - done.started_at).total_seconds()
    assert done.disposition is None


@pytest.mark.parametrize(
    ("payload", "type_", "message"),
    [
        ("builtin", "ValueError", "the text"),
        ("own", f"{__name__}.OwnError", "('a', 1)"),
        ("empty", "ValueError", ""),
        ("surrogate", "ValueError", "\ud800 \0"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", "from inside"),
    ],
)
def test_a_failed_run_has_the_error(
    app: durably.Durably, payload: str, type_: str, message: str
) -> None:
    """Type, message and traceback are stored; ``str()`` of it is ``type: message``."""
    run = app.jobs["raising"].trigger(payload)
    assert app.run_until_idle(raise_failed=False) == 1

    failed = app.get_run(run)

    assert (failed.status, failed.output, failed.is_terminal) == ("failed", None, True)
    assert (failed.error.type, failed.error.message) == (type_, message)
    assert str(failed.error) == (f"{type_}: {message}" if message else type_)
    assert "in boom" in failed.error.traceback
    assert failed.completed_steps == 1
    assert failed.duration is not None


def test_an_error_whose_text_raises_is_recorded_all_the_same(app: durably.Durably) -> None:
    """The run fails with the error's type, and goes on to nobody else."""
    run = app.jobs["raising"].trigger("unprintable")
    assert app.process_one()
    failed = app.get_run(run)
    assert (failed.status, failed.error.type) == ("failed", f"{__name__}.OwnError.Inner")


def test_a_run_cancelled_before_its_start_never_ran(app: durably.Durably) -> None:
    """It has an end, but neither a start nor an attempt nor a duration."""
    run = app.jobs["other"].trigger(1)
    app.cancel(run)

    cancelled = app.get_run(run)

    assert (cancelled.status, cancelled.is_terminal, cancelled.attempt) == ("cancelled", True, 0)
    assert cancelled.completed_at >= cancelled.created_at
    assert (cancelled.started_at, cancelled.heartbeat_at, cancelled.duration) == (None, None, None)


def test_a_retried_run_keeps_its_first_start(app: durably.Durably) -> None:
    """started_at is the first start, and the duration counts from there."""
    run = app.jobs["raising"].trigger("builtin")
    assert app.process_one()
    first = app.get_run(run)

    pending = app.retry(run)
    assert app.process_one()
    second = app.get_run(run)

    assert pending.started_at == first.started_at == second.started_at
    assert (pending.completed_at, pending.error, pending.duration) == (None, None, None)
    assert (pending.status, pending.attempt, pending.completed_steps) == ("pending", 1, 1)
    assert pending.created_at == first.created_at
    assert (second.attempt, second.status) == (2, "failed")
    assert second.completed_at > first.completed_at
    assert second.duration > first.duration


def test_a_run_cannot_be_changed(app: durably.Durably) -> None:
    """It is a frozen value: what was read stays as it was."""
    run = app.jobs["other"].trigger(1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        run.status = durably.RunStatus.COMPLETED  # type: ignore[misc]  # that is what is rejected
    assert app.process_one()
    assert (run.status, app.get_run(run).status) == ("pending", "completed")


def test_a_run_is_the_same_whenever_it_is_read(app: durably.Durably) -> None:
    """Runs compare and hash by their id, as triggered, pending and ended, whatever they hold."""
    run = app.jobs["other"].trigger({"a": [1]}, labels={"b": "c"})
    read = app.get_run(run)
    assert app.process_one()
    ended = app.get_run(run)
    another = app.jobs["other"].trigger({"a": [1]}, labels={"b": "c"})

    assert run == read == ended
    assert {run: "found"}[ended] == "found"
    assert [another, run].index(ended) == 1
    assert len({run, read, ended, another}) == 2
    assert run != another
    assert run != run.id
    assert pickle.loads(pickle.dumps(ended)) == run == copy.copy(run)


def test_as_completed_of_a_mapping_finds_its_values(app: durably.Durably) -> None:
    """A run that has ended is a key of the mapping from which it was triggered."""
    names = {app.jobs["other"].trigger(n): f"item {n}" for n in range(3)}
    pending = list(names)
    assert app.run_until_idle() == 3
    for run in app.as_completed(names):
        assert names[run] == f"item {run.output}"
        pending.remove(run)
    assert pending == []


def test_where_the_job_is_not_registered_data_is_json_like(
    app: durably.Durably, tmp_path: Path
) -> None:
    """Payload and output are what was stored; with the job they have its types."""
    run = app.jobs["double"].trigger(Size(4))
    assert app.process_one()
    stranger = durably.Durably(tmp_path / "durably.db")
    try:
        seen = stranger.get_run(run)
        assert (seen.payload, seen.output) == ({"width": 4}, {"width": 8})
        stranger.register(double)
        assert whole(stranger.get_run(run)) == whole(app.get_run(run))
    finally:
        stranger.close()


def test_data_that_fits_todays_job_no_more_is_still_readable(
    app: durably.Durably, tmp_path: Path
) -> None:
    """It is shown as it is stored; one old run does not spoil a list."""
    run = app.jobs["double"].trigger(Size(4))
    assert app.process_one()

    @durably.job("double")
    def today(step: durably.StepContext, payload: int) -> list[str]:
        return []

    changed = durably.Durably(tmp_path / "durably.db", jobs=[today])
    try:
        newer = changed.jobs["double"].trigger(5)
        assert [each.payload for each in changed.get_runs()] == [5, {"width": 4}]
        assert changed.get_run(run).output == {"width": 8}
        assert changed.get_run(newer).payload == 5
    finally:
        changed.close()


def test_data_that_fits_todays_job_no_more_fails_the_run(
    app: durably.Durably, tmp_path: Path
) -> None:
    """A pending run whose payload today's job cannot take is failed, and says why."""
    run = app.jobs["double"].trigger(Size(4))

    @durably.job("double")
    def today(step: durably.StepContext, payload: int) -> None: ...

    changed = durably.Durably(tmp_path / "durably.db", jobs=[today])
    try:
        assert changed.process_one()
        failed = changed.get_run(run)
        assert (failed.status, failed.error.type) == ("failed", "durably.ValidationError")
    finally:
        changed.close()


# -- steps and logs -------------------------------------------------------------------------


def test_steps_are_listed_by_index_with_what_is_stored(app: durably.Durably) -> None:
    """Outputs are JSON-like; a failed step has its error and no output."""
    indexes: list[tuple[str, int]] = []
    app.on("step:start", lambda event: indexes.append((event.step_name, event.step_index)))
    done = app.jobs["double"].trigger(Size(4))
    failed = app.jobs["raising"].trigger("builtin")
    assert app.run_until_idle(raise_failed=False) == 2

    double_step, nothing = app.get_steps(done)
    fine, boom = app.get_steps(failed.id)

    assert (double_step.name, double_step.index, double_step.output) == ("double", 0, 8)
    assert (nothing.name, nothing.index, nothing.output) == ("nothing", 1, None)
    assert {double_step.status, nothing.status, fine.status} == {"completed"}
    assert (boom.status, boom.index, boom.output, boom.attempt) == ("failed", 1, None, 1)
    assert str(boom.error) == "ValueError: the text"
    assert fine.error is None
    assert isinstance(boom.started_at, datetime)
    assert fine.started_at <= fine.completed_at <= boom.started_at <= boom.completed_at
    assert sorted(indexes) == [("boom", 1), ("double", 0), ("fine", 0), ("nothing", 1)]


def test_a_step_reports_the_attempt_that_stored_it(app: durably.Durably) -> None:
    """A completed step keeps its first attempt, the failed one has the newest; one record each."""
    run = app.jobs["raising"].trigger("builtin")
    assert app.process_one()
    app.retry(run)
    assert app.process_one()
    assert [(s.name, s.attempt, s.status) for s in app.get_steps(run)] == [
        ("fine", 1, "completed"),
        ("boom", 2, "failed"),
    ]


def test_a_run_without_steps_has_none(app: durably.Durably) -> None:
    """Pending, or of a job that takes no steps."""
    run = app.jobs["other"].trigger(1)
    assert app.get_steps(run) == []
    assert app.process_one()
    assert app.get_steps(run) == []


def test_logs_are_stored_only_where_they_are_persisted(tmp_path: Path) -> None:
    """Without the plugin the list is empty; with it every line is there, in order."""

    @durably.job
    def chatty(step: durably.StepContext) -> None:
        step.log.info("outside", n=1)
        step.run("inner", lambda: step.log.error("inside \ud800\0", data={"a": [1]}))

    app = durably.Durably(tmp_path / "durably.db", jobs=[chatty])
    try:
        before = app.jobs["chatty"].trigger()
        assert app.process_one()
        app.use(LogPersistence())
        after = app.jobs["chatty"].trigger()
        assert app.process_one()

        assert app.get_logs(before) == []
        first, second = app.get_logs(after.id)
        assert (first.level, first.message, first.data) == ("info", "outside", {"n": 1})
        assert first.step_name is None
        assert (second.level, second.message) == ("error", "inside \ud800\0")
        assert (second.step_name, second.data) == ("inner", {"data": {"a": [1]}})
        assert first.created_at <= second.created_at
    finally:
        app.close()


def test_runs_of_a_deep_stack_keep_readable_errors(app: durably.Durably) -> None:
    """An error with a huge message is stored with both its ends."""

    @durably.job
    def huge(step: durably.StepContext) -> None:
        raise ValueError("a" + "x" * 10_000_000 + "z")

    run = app.register(huge).trigger()
    assert app.process_one()
    error = app.get_run(run).error
    assert len(json.dumps(attrs.asdict(error))) < 1_000_000
    assert (error.message[0], error.message[-1]) == ("a", "z")
