"""What the life of a run costs, counted from ``trigger`` to its end: no clock takes part.

A change that adds a statement, a commit, a sync or a page to a hot path fails here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import PAGE, Counted, DiskVFS

import durably
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[DiskVFS]:
    with DiskVFS.registered(request.node.nodeid) as vfs:
        yield vfs


@pytest.fixture(params=["full", "normal"])
def app(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    disk: DiskVFS,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[durably.Durably]:
    """An engine with one worker that was not started, on a counted disk.

    Its heartbeat and its flusher stand still: what they do when, a clock decides.
    """
    monkeypatch.setattr(opening, "Database", functools.partial(Database, vfs=disk.name))
    app = durably.Durably(
        tmp_path / "durably.db",
        jobs=[stepping, one_step, telling],
        max_workers=1,
        synchronous=request.param,
    )
    for service in (app._supervisor._heartbeat, app._flusher):
        monkeypatch.setattr(service, "start", lambda: None)
    # What an engine does but once is no part of what a run costs: its owner row, a reader.
    app.jobs["one-step"].trigger(0)
    assert app.process_one()
    yield app
    app.close()


def syncs_each(app: durably.Durably) -> int:
    """How many syncs a commit may take."""
    return 1 if app._store.database._writer._db.pragma("synchronous") == 2 else 0


@durably.job("one-step")
def one_step(step: durably.StepContext, number: int) -> int:
    return step.run("only", int, number)


# What the next run of ``stepping`` does with its context.
doing: list[Any] = []


@durably.job("stepping")
def stepping(step: durably.StepContext) -> None:
    doing.pop()(step)


@durably.job("telling")
def telling(step: durably.StepContext, count: int) -> int:
    for number in range(count):
        step.progress(number, count)
    return count


def small(number: int) -> int:
    return number


def during(app: durably.Durably, disk: DiskVFS, count: int, first: int = 0) -> Counted:
    """What *count* steps of a run that has *first* already cost, without its start and end."""
    counted = Counted(app._store.database, disk)

    def run_steps(step: durably.StepContext) -> None:
        for number in range(first):
            step.run(f"step-{number:05}", small, number)
        with counted:
            for number in range(first, first + count):
                assert step.run(f"step-{number:05}", small, number) == number

    doing.append(run_steps)
    app.jobs["stepping"].trigger()
    assert app.process_one()
    return counted


@pytest.mark.parametrize("before", [1, 10, 300])
def test_step_is_one_statement_one_commit_and_one_sync(
    app: durably.Durably, disk: DiskVFS, before: int
) -> None:
    """``step.run`` asks SQLite for nothing but its checkpoint, however many there are.

    With the first one that a function has made, the name of that is stored.
    """
    counted = during(app, disk, 40, first=before)

    assert counted.writes == ["INSERT"] * 40
    assert counted.commits == 40
    assert counted.syncs == 40 * syncs_each(app)
    assert counted.reads == []
    assert counted.beats == []


def test_step_of_a_lambda_with_a_default_is_one_statement(
    app: durably.Durably, disk: DiskVFS
) -> None:
    """Each of a loop has another fingerprint, and no name, which would find nothing, is stored."""
    counted = Counted(app._store.database, disk)

    def run_steps(step: durably.StepContext) -> None:
        with counted:
            for number in range(20):
                assert step.run(f"step-{number}", lambda number=number: number) == number

    doing.append(run_steps)
    app.jobs["stepping"].trigger()
    assert app.process_one()
    assert counted.writes == ["INSERT"] * 20


def test_step_writes_two_pages(app: durably.Durably, disk: DiskVFS) -> None:
    """The row's page and that of the index on names; now and then a page is full."""
    counted = during(app, disk, 200)

    assert 400 <= counted.pages <= 430


@pytest.mark.parametrize("size", [100_000, 1_000_000, 4_000_000])
def test_large_result_is_written_to_the_log_once(
    app: durably.Durably, disk: DiskVFS, size: int
) -> None:
    """Its pages with a header each, and none a second time to have its checksum right."""

    def run_step(step: durably.StepContext) -> None:
        pages, headers = disk.pages, disk.headers
        assert step.run("large", "x".__mul__, size) == "x" * size
        pages, headers = disk.pages - pages, disk.headers - headers
        assert size / PAGE < pages < 1.01 * size / PAGE + 10
        # The log has one header of its own.
        assert headers in (pages, pages + 1)

    doing.append(run_step)
    app.jobs["stepping"].trigger()
    assert app.process_one()
    assert app.count_runs(status="failed") == 0


def test_trigger_is_one_statement_one_commit_and_one_sync(
    app: durably.Durably, disk: DiskVFS
) -> None:
    """``trigger`` without keys reads nothing, and finds out nothing afterwards."""
    with Counted(app._store.database, disk) as counted:
        app.jobs["one-step"].trigger(1)

    assert (counted.writes, counted.commits) == (["INSERT"], 1)
    assert counted.syncs == syncs_each(app)
    assert counted.reads == []


def test_trigger_and_run_write_few_pages(app: durably.Durably, disk: DiskVFS) -> None:
    """A trigger five: the run, the sequence of its number, and three indexes; a one-step run six.

    Of those of the run two are the step's. Now and then a page is full.
    """
    with Counted(app._store.database, disk) as triggered:
        for number in range(50):
            app.jobs["one-step"].trigger(number)
    with Counted(app._store.database, disk) as executed:
        assert app.run_until_idle() == 50

    assert 5 * 50 <= triggered.pages <= 5.6 * 50
    assert 6 * 50 <= executed.pages <= 7 * 50


def test_batch_of_triggers_is_one_commit(app: durably.Durably, disk: DiskVFS) -> None:
    """A statement a run, or a block of 128, and nothing else, with one wait for the disk."""
    with Counted(app._store.database, disk) as counted:
        app.jobs["one-step"].batch_trigger(range(50))

    assert counted.writes == ["BEGIN", *["INSERT"] * 50, "COMMIT"]
    assert (counted.commits, counted.reads) == (1, [])
    assert counted.syncs == syncs_each(app)


def test_one_step_run_is_two_commits(app: durably.Durably, disk: DiskVFS) -> None:
    """Its checkpoint, and its end together with the claim of the run that comes next."""
    app.jobs["one-step"].batch_trigger(range(20))
    with Counted(app._store.database, disk) as counted:
        assert app.run_until_idle() == 20

    claim = ["BEGIN", "UPDATE", "COMMIT"]
    each = ["INSERT", "BEGIN", "UPDATE", "UPDATE", "COMMIT"]
    assert counted.writes == claim + each * 20
    assert counted.commits == 1 + 2 * 20
    assert counted.syncs == counted.commits * syncs_each(app)
    assert counted.beats == []


def test_run_executed_alone_is_three_commits(app: durably.Durably, disk: DiskVFS) -> None:
    """``process_one``: claim, checkpoint, end."""
    app.jobs["one-step"].trigger(1)
    with Counted(app._store.database, disk) as counted:
        assert app.process_one()

    assert counted.writes == ["BEGIN", "UPDATE", "COMMIT", "INSERT", "UPDATE"]
    assert counted.syncs == counted.commits * syncs_each(app)


def test_run_triggered_into_a_free_slot_is_three_commits(
    app: durably.Durably, disk: DiskVFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trigger and its claim are one transaction; nobody searches for it."""
    dispatcher = app._supervisor._dispatcher
    monkeypatch.setattr(dispatcher, "dispatch", lambda: True)
    # Where one finds no slot free, the thread that ends a run claims another one with it.
    monkeypatch.setattr(dispatcher, "_has_free_slot", lambda: True)
    monkeypatch.setattr(app._supervisor._reaper, "start", lambda: None)
    app.start()
    with Counted(app._store.database, disk) as counted:
        run = app.jobs["one-step"].trigger(1)
        app.wait(run, timeout=30)
        app.stop()
    monkeypatch.undo()

    assert counted.writes == ["INSERT", "INSERT", "UPDATE", "UPDATE"]  # the last one is the stop
    assert counted.syncs == counted.commits * syncs_each(app)


@pytest.mark.parametrize("count", [1, 1000])
def test_progress_costs_no_commit(app: durably.Durably, disk: DiskVFS, count: int) -> None:
    """However often it is reported inside a run, it rides on the run's end."""
    app.jobs["telling"].trigger(count)
    with Counted(app._store.database, disk) as counted:
        assert app.process_one()

    assert counted.writes == ["BEGIN", "UPDATE", "COMMIT", "UPDATE"]
    [run] = app.get_runs(job_name="telling")
    assert run.progress == durably.Progress(count - 1, count)


@pytest.mark.parametrize("count", [1, 500])
def test_resume_reads_a_window_and_writes_nothing(
    app: durably.Durably, disk: DiskVFS, count: int
) -> None:
    """Checkpoints are read when the run is claimed, not one by one, and are not written again."""

    def fail(step: durably.StepContext) -> None:
        for number in range(count):
            step.run(f"step-{number}", small, number)
        raise ValueError

    def replay(step: durably.StepContext) -> None:
        for number in range(count):
            assert step.run(f"step-{number}", small, number) == number

    doing.append(fail)
    run = app.jobs["stepping"].trigger()
    assert app.process_one()
    app.retry(run)
    doing.append(replay)
    with Counted(app._store.database, disk) as counted:
        assert app.process_one()

    assert app.get_run(run).status == "completed"
    assert counted.writes == ["BEGIN", "UPDATE", "COMMIT", "UPDATE"]  # its claim and its end
    # Its own row, the other engines, what is due and what can be claimed; one window, the maps, the
    # highest index; what is left.
    assert counted.reads == ["SELECT"] * 8
