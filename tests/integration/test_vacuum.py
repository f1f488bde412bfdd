"""A vacuum returns what deleted runs have left, a little at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from databases import open_database

import durably
from durably.client import upkeep
from durably.client.upkeep import next_pages
from durably.testing import check


@durably.job
def large(step: durably.StepContext) -> None:
    step.run("a", lambda: "x" * 100_000)


def given_free_pages(path: Path) -> durably.Durably:
    """Return an engine whose file is mostly free pages: runs of some megabytes were deleted."""
    app = durably.Durably(path, jobs=[large], retain_runs=None)
    runs = app.batch_trigger(large, [None] * 30)
    while app.process_one():
        pass
    for run in runs:
        app.delete_run(run)
    return app


def test_it_returns_all_of_it(tmp_path: Path) -> None:
    """The file is as small as a new one, and the result is how much was returned."""
    app = given_free_pages(tmp_path / "runs.db")
    kept = [app.run(large, key=f"{n}") for n in range(3)]
    app.close()
    before = (tmp_path / "runs.db").stat().st_size
    with durably.Durably(tmp_path / "runs.db") as app:
        returned = app.vacuum()
        assert app.vacuum() == 0
        assert app.get_runs() == kept[::-1]
    after = (tmp_path / "runs.db").stat().st_size
    assert returned == before - after > 1_000_000
    assert check(tmp_path / "runs.db") == []


def test_others_write_between_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vacuum of many steps keeps neither threads nor other engines from committing."""
    app = given_free_pages(tmp_path / "runs.db")
    other = durably.Durably(tmp_path / "runs.db", replace=False)
    steps = []
    triggered: list[durably.Run[None, None]] = []

    def trigger() -> None:
        triggered.append(other.trigger(large, None))

    def between() -> None:
        thread = threading.Thread(target=trigger)
        thread.start()
        thread.join(20)
        steps.append(len(triggered))

    monkeypatch.setattr(upkeep, "_MOST_PAGES", 16)
    monkeypatch.setattr(upkeep, "deliver", between)
    assert app.vacuum() > 0
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10
    assert app.count_runs() == len(steps)
    other.close()
    app.close()


def test_it_stops_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time it does nothing; with little, a part; a wrong limit is an error."""
    app = given_free_pages(tmp_path / "runs.db")
    assert app.vacuum(max_seconds=0) == 0
    clock = app._client.care._clock
    now_s = clock.monotonic()
    readings = iter([now_s, now_s, now_s + 2])
    monkeypatch.setattr(clock, "monotonic", lambda: next(readings, now_s + 2))
    part = app.vacuum(max_seconds=1)
    assert 0 < part <= upkeep._FIRST_PAGES * 4096
    monkeypatch.undo()
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(durably.ValidationError, match="max_seconds"):
            app.vacuum(max_seconds=wrong)  # type: ignore[arg-type]
    app.close()


@pytest.mark.parametrize(
    ("pages", "took_s", "following"),
    [
        (32, 0.0, 64),
        (32, 0.005, 64),
        (32, 0.01, 32),
        (32, 0.04, 8),
        (32, 10.0, 4),
        (4, 10.0, 4),
        (1500, 0.001, 2000),
    ],
)
def test_steps_are_as_short_as_their_time_allows(pages: int, took_s: float, following: int) -> None:
    """A slow disk gets smaller steps at once, a quick one larger ones little by little."""
    assert next_pages(pages, took_s) == following


def test_a_locked_database_ends_it(tmp_path: Path) -> None:
    """A program that keeps the file locked is not waited for."""
    app = given_free_pages(tmp_path / "runs.db")
    db = open_database(tmp_path / "runs.db")
    db.execute("BEGIN IMMEDIATE")
    assert app.vacuum() == 0
    db.execute("ROLLBACK")
    assert app.vacuum() > 0
    db.close()
    app.close()
