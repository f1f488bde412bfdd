"""Each option of an engine does what it says; tests/unit/test_settings.py has the bad ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import cattrs
import pytest
from engines import GRACE_S, engine, execute, record

import durably
from durably.plugins import LogPersistence
from durably.store.sqlite.sql import owners

Eventually = Callable[[Callable[[], object]], None]


class Point:
    """A type that cattrs knows nothing of."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None


def quick(step: durably.StepContext) -> int:
    return step.run("one", int)


@pytest.mark.parametrize(("mode", "level"), [("full", 2), ("normal", 1)])
def test_synchronous_is_that_of_each_commit_of_a_checkpoint(
    tmp_path: Path, mode: str, level: int
) -> None:
    """The connection that writes checkpoints syncs at each commit, or at none."""
    with engine(tmp_path, synchronous=mode) as app:
        assert app._store.database.write(lambda db: db.pragma("synchronous")) == level


def test_synchronous_is_full_by_default(tmp_path: Path) -> None:
    """Without the option a checkpoint survives power loss."""
    with durably.Durably(tmp_path / "x.db") as app:
        assert app._store.database.write(lambda db: db.pragma("synchronous")) == 2


def beats(app: durably.Durably, of: durably.Durably) -> int:
    owner = of._supervisor.local.owner
    return next(row.beat for row in app._store.database.read(owners.list_all) if row.owner == owner)


def test_heartbeat_interval_is_the_time_between_two_beats(
    tmp_path: Path, eventually: Eventually
) -> None:
    """While a quick one beats many times, a slow one does so once, at its start."""
    with (
        engine(tmp_path, heartbeat_interval=3600, stale_threshold=7200) as slow,
        engine(tmp_path, heartbeat_interval=0.01) as fast,
    ):
        slow.start()
        fast.start()
        eventually(lambda: beats(fast, fast) >= 30)
        assert beats(fast, slow) <= 1


def test_stale_threshold_is_how_long_a_hung_owner_keeps_its_run(
    tmp_path: Path, eventually: Eventually
) -> None:
    """An observer with a long threshold leaves the run of one that does not beat, a quick one
    takes it.
    """
    entered, leave = threading.Event(), threading.Event()

    def job(step):
        entered.set()
        assert leave.wait(GRACE_S)

    with (
        engine(tmp_path, job, heartbeat_interval=0.01, stale_threshold=0.02) as hung,
        engine(tmp_path, heartbeat_interval=0.01, stale_threshold=3600) as patient,
        engine(tmp_path, heartbeat_interval=0.01, stale_threshold=0.1) as quick_one,
    ):
        try:
            hung.start()
            run = hung.jobs["job"].trigger()
            assert entered.wait(GRACE_S)
            hung._supervisor._heartbeat.stop()  # as if it hung
            hung._supervisor._reaper.stop()
            patient.start()
            eventually(lambda: beats(patient, patient) >= 50)
            assert patient.get_run(run).status == "running"
            recovered = record(quick_one, "run:recover")
            quick_one.start()
            eventually(lambda: recovered)
            assert [(event.run_id, event.reason) for event in recovered] == [(run.id, "stale")]
        finally:
            leave.set()


def test_poll_interval_bounds_the_wait_where_nothing_else_wakes(tmp_path: Path) -> None:
    """A trigger elsewhere is noticed after the interval, though its commit was not seen."""
    with (
        engine(tmp_path, quick) as elsewhere,
        engine(tmp_path, quick, poll_interval=timedelta(seconds=0.05)) as app,
    ):
        app._store.changes._data_version = lambda: 0
        app.start()
        # The first may meet the look that each start begins with; the others do not.
        for _ in range(3):
            elsewhere.wait(elsewhere.jobs["quick"].trigger(), timeout=GRACE_S)


def test_retain_runs_deletes_in_the_background(tmp_path: Path, eventually: Eventually) -> None:
    """Runs that ended longer ago are deleted with all that is theirs, which is emitted."""
    with engine(tmp_path, quick, retain_runs=timedelta(microseconds=1)) as app:
        app.use(LogPersistence())
        run = execute(app, job="quick", labels={"a": "b"})
        pending = app.jobs["quick"].trigger(labels={"c": "d"})
        deleted = record(app, "run:delete")
        app._client.submitter.registry._jobs = {}  # so that the pending one stays so
        app.start()
        eventually(lambda: deleted)
        assert [(event.run_id, event.labels) for event in deleted] == [(run.id, {"a": "b"})]
        assert [left.id for left in app.get_runs()] == [pending.id]


def test_converter_brings_types_of_the_users_own(tmp_path: Path) -> None:
    """They are payload, result of a step and output; without it the job is rejected."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Point, lambda point: [point.x, point.y])
    converter.register_structure_hook(Point, lambda data, _: Point(*data))

    def mirrored(point: Point) -> Point:
        return Point(point.y, point.x)

    def job(step, point: Point) -> Point:
        return step.run("mirror", mirrored, point)

    with engine(tmp_path, job, converter=converter) as app:
        run = execute(app, Point(1, 2))
        assert (run.payload, run.output) == (Point(1, 2), Point(2, 1))
        assert app.get_steps(run)[0].output == [2, 1]
    with pytest.raises(durably.ValidationError, match="the input of job 'job'"):
        durably.Durably(tmp_path / "other.db", jobs=[durably.Job("job", job)])
