"""A run that is claimed together with the end of another one is on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import durably


def test_slow_listener_does_not_cost_the_next_run_its_claim(
    tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
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

    app.on("run:complete", listen_slowly)
    first, second = (app.jobs["work"].trigger() for _ in range(2))
    with app:
        ended = app.wait(second, timeout=30)
        assert (app.wait(first, timeout=30).attempt, ended.attempt) == (1, 1)
    assert effects == heard == [first.id, second.id]
