"""``step.note``, and how often the function of a step was called."""

from __future__ import annotations

import math
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from children import Child
from engines import again, engine, execute

import durably
from durably.errors import SerializationError, StopRun, ValidationError
from durably.store.sqlite.sql.calls import last_begun


def calls_and_notes(app: durably.Durably, run: Any, name: str = "s") -> tuple[int, list[Any]]:
    (record,) = (each for each in app.get_steps(run) if each.name == name)
    return record.attempts, record.notes


def test_notes_are_kept_by_call(tmp_path: Path) -> None:
    """Several are merged; those of a failed call stay, and a call without notes has none."""

    def job(step: durably.StepContext) -> None:
        def work() -> None:
            if step.attempt != 3:
                step.note(tokens=step.attempt, cost=0.5)
                step.note(cost=1.5, self="s")
            if step.attempt < 4:
                raise ValueError

        step.run("s", work)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert calls_and_notes(app, run) == (1, [{"tokens": 1, "cost": 1.5, "self": "s"}])
        run = again(app, again(app, again(app, run)))
        assert run.status == "completed"
        assert calls_and_notes(app, run) == (
            4,
            [{"tokens": n, "cost": 1.5, "self": "s"} for n in (1, 2, 4)],
        )
        assert app.get_steps(run).to_dict()[0]["notes"][0]["tokens"] == 1
        assert "tokens" in app.get_steps(run)[0]._repr_html_()


def test_calls_again_in_one_execution_are_counted(tmp_path: Path) -> None:
    """Those of a Retry, each with its notes; and a step that the job uses again after a failure."""
    tried: list[int] = []

    def job(step: durably.StepContext) -> None:
        def work() -> None:
            tried.append(1)
            step.note(n=len(tried))
            if len(tried) in (1, 2, 4):
                raise OSError

        patient = step.options(retry=durably.Retry(attempts=3, wait=0))
        patient.run("s", work)
        with pytest.raises(OSError):
            step.run("t", work)
        step.run("t", work)
        step.run("plain", int)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == "completed", run.error
        assert calls_and_notes(app, run) == (3, [{"n": 1}, {"n": 2}, {"n": 3}])
        assert calls_and_notes(app, run, "t") == (2, [{"n": 4}, {"n": 5}])
        assert calls_and_notes(app, run, "plain") == (1, [])


def test_a_call_that_was_interrupted_counts(tmp_path: Path) -> None:
    """With what it has noted, though the step has no record until it ends."""
    executions: list[int] = []

    def job(step: durably.StepContext) -> None:
        def work() -> None:
            executions.append(1)
            step.note(execution=len(executions))
            if len(executions) < 3:
                raise KeyboardInterrupt

        step.run("s", work)

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                app.process_one()
        assert app.get_steps(run) == []
        assert app.process_one()
        assert calls_and_notes(app, run) == (3, [{"execution": n} for n in (1, 2, 3)])
        assert app.get_run(run).attempt == 1


def test_large_results_are_noted_as_well(tmp_path: Path) -> None:
    """Also where the result is a file beside the database."""

    def job(step: durably.StepContext) -> int:
        def work() -> str:
            step.note(size=3)
            return "x" * 3_000_000

        return len(step.run("s", work))

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == 3_000_000
        assert calls_and_notes(app, run) == (1, [{"size": 3}])


def test_a_note_belongs_into_a_step(tmp_path: Path) -> None:
    """Outside of one, in an item, with a value that has no stored form, after the run: errors."""
    kept: list[durably.StepContext] = []

    def job(step: durably.StepContext) -> None:
        kept.append(step)
        with pytest.raises(ValidationError, match="called outside of one"):
            step.note(a=1)

        def item(number: int) -> int:
            with pytest.raises(ValidationError, match="called outside of one"):
                step.note(a=1)
            return number

        step.map("m", item, [1, 2])

        def bad() -> None:
            step.note(a=1)
            with pytest.raises(SerializationError, match="the note 'lock' of step 'bad'"):
                step.note(lock=threading.Lock())
            for value in (math.nan, [-math.inf], {"a": {1}}, (1, 2), Decimal("0.1"), b"x"):
                with pytest.raises(SerializationError, match="the note 'v' of step 'bad' is not"):
                    step.note(v=value)
            step.note(b=["NaN", {"Infinity": 1e300}, None])

        step.run("bad", bad)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == "completed", run.error
        assert calls_and_notes(app, run, "bad") == (
            1,
            [{"a": 1, "b": ["NaN", {"Infinity": 1e300}, None]}],
        )
        with pytest.raises(StopRun):
            kept[0].note(a=1)


def test_steps_that_are_not_kept_leave_no_notes(tmp_path: Path) -> None:
    """With ``preserve_steps=False`` nothing of them stays."""

    def job(step: durably.StepContext) -> None:
        step.run("s", lambda: step.note(a=1))

    with engine(tmp_path, job, preserve_steps=False) as app:
        run = execute(app)
        assert app.get_steps(run) == []
        assert (
            app._store.database.read(
                lambda db: db.execute("SELECT count(*) FROM durably_calls").get
            )
            == 0
        )


def test_a_map_counts_the_executions_that_stored_items(tmp_path: Path) -> None:
    """Each execution of the run is an attempt of the map."""

    def job(step: durably.StepContext) -> None:
        def work(number: int) -> int:
            if number == 2 and step.attempt == 1:
                raise ValueError
            return number

        step.map("s", work, [1, 2])

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
        assert run.status == "completed"
        assert calls_and_notes(app, run) == (2, [])


@pytest.mark.parametrize("kind", ["step", "map"])
def test_a_process_that_dies_in_a_step_has_called_it(tmp_path: Path, kind: str) -> None:
    """Although nothing was committed between the call and the death: its name is known."""
    database = tmp_path / "durably.db"
    for _ in range(2):
        with Child("dies_in_a_step", database, kind, "dies") as child:
            assert child.wait() == 9
    with Child("dies_in_a_step", database, kind, "completes") as child:
        assert child.rest() == ["3"]
    with engine(tmp_path) as app:
        (run,) = app.get_runs()
        attempts = app.get_attempts(run)
        assert [each.outcome for each in attempts] == ["died", "died", "completed"]
        assert [each.steps_completed for each in attempts] == [1, 0, 1]
        assert [each.steps_reused for each in attempts] == [0, 1, 1]
        assert calls_and_notes(app, run, "parse")[0] == 3
        assert app._store.database.read(last_begun, run.id) == "parse"
        assert calls_and_notes(app, run, "before") == (1, [])


def test_a_run_that_kills_its_process_names_the_step(tmp_path: Path) -> None:
    """The error says which step was begun last."""
    database = tmp_path / "durably.db"
    with Child("dies_in_a_step", database, "step", "dies") as child:
        assert child.wait() == 9
    with engine(tmp_path, max_deaths=1) as app:
        app.run_until_idle(raise_failed=False)
        (run,) = app.get_runs()
        assert "; the last step begun was 'parse'" in str(run.error)
