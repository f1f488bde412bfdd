"""Runs that are triggered for later: ``run_at`` and ``delay``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import durably


@durably.job("double")
def double(step: durably.Step, number: int) -> int:
    return 2 * number


def test_a_run_for_later_is_left_until_it_is_due(tmp_path: Path) -> None:
    """It is pending, survives a restart, and is left by calls that do not wait as long as that."""
    path = tmp_path / "durably.db"
    at = datetime.now(UTC) + timedelta(hours=1)
    with durably.Durably(path, jobs=[double]) as app:
        runs = [
            app.trigger(double, 1, run_at=at),
            app.trigger(double, 2, delay=timedelta(hours=1), concurrency_key="k"),
            *app.batch_trigger(double, [durably.Trigger(3, delay=3600, idempotency_key="i")]),
        ]
        assert app.trigger(double, 4, concurrency_key="k").result() == 8
        joined = app.trigger(double, 5, concurrency_key="k", coalesce=True)
        assert (joined.id, joined.disposition) == (runs[1].id, "coalesced")
        now = app.trigger(double, 6, run_at=datetime(2020, 1, 1, tzinfo=UTC))
        assert (now.run_at, now.result()) == (None, 12)
    with durably.Durably(path, jobs=[double]) as app:
        again = [app.get_run(run) for run in runs]
        assert [run.run_at for run in again if run] == [run.run_at for run in runs]
        assert runs[0].run_at == at
        assert [run.status for run in again if run] == ["pending"] * 3
        with pytest.raises(durably.WaitTimeoutError):
            app.wait(runs[0], timeout=0)
        # Who asks for the run itself does not wait for its time.
        assert app.run(double, 3, key="i").output == 6


def test_a_run_begins_when_it_is_due(tmp_path: Path) -> None:
    """In a started engine, in a wait, and in run_until_idle within *max_wait*."""
    with durably.Durably(tmp_path / "durably.db", jobs=[double]) as app:
        run = app.trigger_and_wait(double, 1, delay=0.05)
        assert run.started_at is not None
        assert run.started_at - run.created_at >= timedelta(seconds=0.05)
        assert (run.output, run.run_at) == (2, None)
    app = durably.Durably(tmp_path / "other.db", jobs=[double])
    try:
        app.trigger(double, 2, delay=3600)
        assert app.run_until_idle() == 0
        soon = app.trigger(double, 1, delay=0.1)
        assert app.run_until_idle(max_wait=60) == 1
        assert soon.refresh().output == 2
    finally:
        app.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_at": datetime.now(UTC), "delay": 1}, "pass one of them"),
        ({"run_at": datetime(2030, 1, 1)}, "no time zone"),
        ({"run_at": 5}, "aware datetime"),
        ({"delay": -1}, "negative"),
        ({"delay": "1h"}, "delay"),
    ],
)
def test_an_unclear_time_is_rejected(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Nothing is stored."""
    app = durably.Durably(tmp_path / "durably.db", jobs=[double])
    try:
        with pytest.raises(durably.ValidationError, match=message):
            app.trigger(double, 1, **options)
        with pytest.raises(durably.ValidationError, match="max_wait"):
            app.run_until_idle(max_wait=-1)
        assert app.count_runs() == 0
    finally:
        app.close()
