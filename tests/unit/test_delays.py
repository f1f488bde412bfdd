"""``pytest --delays``: that it delays durably, and nothing else."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import durably


@durably.job
def work(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


if sys.version_info < (3, 12):

    def test_a_python_without_monitoring_is_an_error_that_says_so() -> None:
        """Not by a traceback that names what it lacks."""
        with pytest.raises(ImportError, match=r"Python 3\.12"):
            import delays  # noqa: F401, PLC0415

else:
    from delays import Delays

    def test_lines_of_durably_are_delayed_in_all_threads(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lines of others are not, and neither is anything once it has ended."""
        slept: set[str] = set()
        monkeypatch.setattr("time.sleep", lambda _: slept.add(threading.current_thread().name))
        delays = Delays(1e-5)  # each line
        delays.begin()
        try:
            with durably.Durably(tmp_path / "x.db", jobs=[work], max_workers=1) as app:
                assert app.jobs["work"].trigger_and_wait(timeout=30).output == 7
            count = delays.count
            sorted(range(10), key=lambda number: -number)
            assert delays.count == count
        finally:
            delays.end()
        assert {"MainThread", "durably-dispatcher", "durably-worker_0"} <= slept
        assert count > 100
        repr(work)
        assert delays.count == count
