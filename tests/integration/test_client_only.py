"""An engine that is never started: a script that triggers, reads, cancels and waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import names_of_threads
from storekit import token_of

import durably


def test_nothing_is_started(tmp_path: Path) -> None:
    """No thread runs, and the database never has an owner: no other engine waits for this one."""

    @durably.job
    def job(step: durably.StepContext, number: int) -> int:
        raise AssertionError("nothing is executed here")

    app = durably.Durably(tmp_path / "x.db", jobs=[job], persist_logs=True)
    try:
        run = app.trigger(job, 1)
        batch = app.batch_trigger(job, [2, 3])
        assert app.get_run(run).status == "pending"
        assert (app.count_runs(), app.get_steps(run), app.get_logs(run)) == (3, [], [])
        app.cancel(run)
        assert app.retry(run).status == "pending"
        app.cancel(run)
        app.delete_run(run)
        with pytest.raises(durably.WaitTimeoutError):
            app.wait(batch[0], timeout=0.05, on_log=print)
        with pytest.raises(durably.WaitTimeoutError):
            app.trigger_and_wait(job, 4, timeout=0.05)
        with pytest.raises(durably.WaitTimeoutError):
            list(app.as_completed(batch, timeout=0.05))
        with pytest.raises(durably.NoWorkerError):
            app.wait(batch[0])
        with app.subscribe(batch[0]) as events:
            app.cancel(batch[0])
            assert [event.type for event in events] == ["run:cancel"]
        assert names_of_threads() == []
        # Numbers of owners rise, and are never used twice.
        assert app._store.register_owner(token_of("first"), 5_000_000, 1) == 1
    finally:
        app.close()
