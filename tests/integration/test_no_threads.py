"""No thread can be had for a claimed run: it goes back, and is executed once there is one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import HANG_S

import durably
from durably import Durably

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("workers_before", [0, 1])
def test_run_is_executed_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object]], None],
    workers_before: int,
) -> None:
    """Each run is executed once, by a thread that was there already or by one that starts later."""
    calls: list[int] = []
    holding, go, refused = threading.Event(), threading.Event(), threading.Event()
    start = threading.Thread.start

    @durably.job
    def work(step, number: int):
        step.run("call", calls.append, number)

    @durably.job
    def hold(step):
        holding.set()
        assert go.wait(HANG_S)

    def no_more(thread: threading.Thread) -> None:
        if thread.name.startswith("durably-worker"):
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    with Durably(tmp_path / "x.db", jobs=[work, hold], poll_interval=0.05) as app:
        if workers_before:
            app.jobs["hold"].trigger()
            assert holding.wait(HANG_S)
        monkeypatch.setattr(threading.Thread, "start", no_more)
        triggered = app.jobs["work"].batch_trigger([1, 2])
        assert refused.wait(HANG_S)
        monkeypatch.setattr(threading.Thread, "start", start)
        go.set()
        ended = [app.wait(run, timeout=HANG_S) for run in triggered]
    assert sorted(calls) == [1, 2]
    assert {run.status for run in ended} == {"completed"}
