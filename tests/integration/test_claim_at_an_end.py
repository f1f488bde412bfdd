"""A run that is claimed together with the end of another one is on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S
from held import HeldJob

import durably
from durably.store.sqlite.sql import settle


def test_slow_listener_does_not_cost_the_next_run_its_claim(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    """While listeners hear of one run's end, the run claimed with it stays this engine's."""
    effects: list[str] = []

    @durably.job
    def work(step: durably.StepContext) -> None:
        step.run("effect", effects.append, step.run_id)

    app = durably.Durably(
        tmp_path / "test.db",
        jobs=[work],
        max_workers=1,
        heartbeat_interval=0.02,
        stale_threshold=5.0,
    )
    heard: list[str] = []

    def listen_slowly(event: Any) -> None:
        heard.append(event.run_id)
        if len(heard) == 1:
            heartbeat = app._supervisor._heartbeat
            enough = heartbeat.committed + 5
            eventually(lambda: heartbeat.committed >= enough)

    write = app._store.database.write

    def write_and_listen(operation: Any, *args: Any, **kw: Any) -> Any:
        result = write(operation, *args, **kw)
        if operation is settle.settle_and_claim and not heard:
            app.on("run:complete", listen_slowly)  # where nobody listened when it claimed
        return result

    monkeypatch.setattr(app._store.database, "write", write_and_listen)
    first, second = (app.jobs["work"].trigger() for _ in range(2))
    with app:
        ended = app.wait(second, timeout=30)
        assert (app.wait(first, timeout=30).attempt, ended.attempt) == (1, 1)
    assert effects == heard == [first.id, second.id]


def test_listener_of_an_end_may_wait_for_a_run_that_another_slot_executes(tmp_path: Path) -> None:
    """What is next in line is not kept for the slot whose listener has not come back."""
    held = HeldJob()

    @durably.job
    def work(step: durably.StepContext, number: int) -> int:
        return number

    app = durably.Durably(tmp_path / "test.db", jobs=[held.job, work], max_workers=2)
    seen: list[Any] = []

    def wait_for_the_next(event: Any) -> None:
        if event.run_id == first.id:
            held.let_all_go()
            seen.append(app.wait(second, timeout=HANG_S).output)

    app.on("run:complete", wait_for_the_next)
    app.jobs["held"].trigger()
    first, second = app.jobs["work"].batch_trigger([1, 2])
    with app:
        pass
    assert seen == [2]
