"""``get_attempts``: each execution of a run, however it has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engines import engine, take_over

import durably
from durably.store.outcome import OwnerDead

Deed = Callable[[durably.StepContext, durably.Durably], Any]


def nothing(step: durably.StepContext, app: durably.Durably) -> None:
    return


def fail(step: durably.StepContext, app: durably.Durably) -> None:
    raise ValueError("bad row")


def interrupt(step: durably.StepContext, app: durably.Durably) -> None:
    raise KeyboardInterrupt


def cancel(step: durably.StepContext, app: durably.Durably) -> None:
    app.cancel(step.run_id)


def hang(step: durably.StepContext, app: durably.Durably) -> None:
    take_over(app)


def die(step: durably.StepContext, app: durably.Durably) -> None:
    """Be found dead, as by the reaper of another engine."""
    owner = app._supervisor.local.owner
    assert owner is not None
    assert app._store.requeue(OwnerDead(owner), 1)


def retry(app: durably.Durably, run: durably.Run[Any, Any]) -> None:
    app.retry(run)


def answer(app: durably.Durably, run: durably.Run[Any, Any]) -> None:
    app.answer(run, "approve", True)


def leave(app: durably.Durably, run: durably.Run[Any, Any]) -> None:
    return


class Row(NamedTuple):
    """What happens in a run, its outcome and steps, how it goes on, and its next attempt."""

    deed: Deed | None  # None to wait for an answer
    outcome: str
    completed: int
    reused: int | None
    go_on: Callable[[durably.Durably, durably.Run[Any, Any]], None] | None
    attempt: int
    calls: int


TABLE = {
    "completed": Row(nothing, "completed", 2, 0, None, 1, 1),
    "failed": Row(fail, "failed", 1, 0, retry, 2, 2),
    "interrupted": Row(interrupt, "interrupted", 1, 0, leave, 1, 2),
    "suspended": Row(None, "suspended", 1, 0, answer, 1, 1),
    "cancelled": Row(cancel, "cancelled", 1, 0, retry, 2, 2),
    "died": Row(die, "died", 1, 0, leave, 2, 2),
    "hung": Row(hang, "hung", 1, 0, leave, 2, 2),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_outcome(tmp_path: Path, name: str) -> None:
    """An execution has its outcome, its steps and its error; the next one the right number."""
    row = TABLE[name]
    seen: list[durably.Attempt] = []

    def job(step: durably.StepContext) -> str:
        step.run("before", int)
        executions = app.get_attempts(step.run_id)
        seen.append(executions[-1])
        if row.deed is None:
            step.ask("approve")
        deed = row.deed if len(executions) == 1 and row.deed is not None else nothing
        step.run("deed", deed, step, app)
        return "done"

    with engine(tmp_path, job, heartbeat_interval=10) as app:
        run = app.jobs["job"].trigger()
        try:
            app.process_one()
        except KeyboardInterrupt:
            assert name == "interrupted"
        (first,) = app.get_attempts(run)
        assert (first.attempt, first.outcome) == (1, row.outcome)
        assert (first.steps_completed, first.steps_reused) == (row.completed, row.reused)
        assert (first.error is not None) == (name == "failed")
        assert first.started_at is not None
        assert first.ended_at is not None
        assert (seen[0].outcome, seen[0].ended_at, seen[0].error) == ("running", None, None)
        assert (seen[0].attempt, seen[0].steps_completed, seen[0].steps_reused) == (1, 1, None)
        if row.go_on is not None:
            row.go_on(app, run)
            assert app.process_one()
            again, last = app.get_attempts(run)
            assert again == first
            assert (last.attempt, last.outcome) == (row.attempt, "completed")
            assert last.steps_reused == 1
            assert app.get_run(run).attempt == row.attempt
        (deed,) = (each for each in app.get_steps(run) if each.name == "deed")
        assert deed.attempts == row.calls
        rows = app.get_attempts(run).to_dict()
        assert [each["outcome"] for each in rows][:1] == [row.outcome]


def test_attempts_and_failures_count_what_they_say(tmp_path: Path) -> None:
    """Failures are those since the last retry; an interrupt counts as neither."""
    deeds = [fail, interrupt, fail, nothing]

    def job(step: durably.StepContext) -> None:
        step.run("deed", deeds.pop(0), step, app)

    def numbers() -> tuple[int, int]:
        found = app.get_run(run)
        return found.attempt, found.failures

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        assert numbers() == (0, 0)
        app.process_one()
        assert numbers() == (1, 1)
        app.retry(run)
        assert numbers() == (1, 0)
        with pytest.raises(KeyboardInterrupt):
            app.process_one()
        assert numbers() == (2, 0)
        app.process_one()
        assert numbers() == (2, 1)
        app.retry(run)
        app.process_one()
        assert numbers() == (3, 0)
        outcomes = [(each.attempt, each.outcome) for each in app.get_attempts(run)]
    assert outcomes == [(1, "failed"), (2, "interrupted"), (2, "failed"), (3, "completed")]


def test_engine_that_was_found_dead_registers_again_before_it_claims(tmp_path: Path) -> None:
    """Its next call executes a run, and does not depend on a heartbeat that comes first."""

    def job(step: durably.StepContext) -> int | None:
        return app._supervisor.local.owner

    with engine(tmp_path, job) as app:
        # Only the call itself may register the engine again.
        app._supervisor._heartbeat.tick = lambda: None  # type: ignore[method-assign]
        assert app.run("job", fresh=True).output is not None
        for number, call in enumerate((app.process_one, app.run_until_idle, lambda: None)):
            before = app._supervisor.local.owner
            assert before is not None
            app._store.requeue(OwnerDead(before), 1)
            run = app.jobs["job"].trigger()
            if number == 2:
                run = app.run("job", fresh=True)
            else:
                call()
            assert app.get_run(run).output not in (None, before)
