"""Two processes on one file share its runs: each is executed once, keys exclude each other."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from children import Child
from invariants import check

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs processes side by side")

RUNS = 500  # triggered by each of the two
KEYS = 5


def test_two_processes_execute_each_run_once(tmp_path: Path) -> None:
    """Two processes that each trigger 500 runs on one file execute the 1,000 between them, each run
    once, and runs that share a concurrency key never overlap.
    """
    database, effects = tmp_path / "runs.db", tmp_path / "effects"
    with (
        Child("shares_runs", database, effects, RUNS, KEYS) as first,
        Child("shares_runs", database, effects, RUNS, KEYS) as second,
    ):
        for child in (first, second):
            child.expect("ready")
        for child in (first, second):
            child.say()
        assert first.rest() == ["done"]
        assert second.rest() == ["done"]
        pids = {first.pid, second.pid}
    assert check(database, is_idle=True, is_finished=True) == []

    lines = [line.split() for line in effects.read_text().splitlines()]
    for kind in ("start", "step", "end"):
        executed = Counter(run_id for what, _, run_id, _, _ in lines if what == kind)
        assert len(executed) == 2 * RUNS
        assert set(executed.values()) == {1}
    assert {line[4] for line in lines} == {"1"}
    assert {int(line[3]) for line in lines} == pids, "one process has executed everything"
    # The file is appended to in the order of time: between a start and its end nothing of
    # another run with that key may stand.
    inside: dict[str, str] = {}
    for what, key, run_id, _, _ in lines:
        if key == "-":
            continue
        if what == "start":
            assert key not in inside, f"{run_id} started while {inside[key]} had {key}"
            inside[key] = run_id
        else:
            assert inside[key] == run_id
        if what == "end":
            del inside[key]
    assert inside == {}

    app = durably.Durably(database)
    try:
        assert app.count_runs(status="completed") == 2 * RUNS
        assert {run.output for run in app.get_runs()} == pids
        assert {run.attempt for run in app.get_runs()} == {1}
    finally:
        app.close()


def test_two_processes_trigger_with_the_same_idempotency_keys(tmp_path: Path) -> None:
    """Two processes that trigger with the same keys at once get the same runs, created once."""
    database = tmp_path / "runs.db"
    with (
        Child("triggers_with_keys", database) as first,
        Child("triggers_with_keys", database) as second,
    ):
        for child in (first, second):
            child.expect("ready")
        for child in (first, second):
            child.say()
        assert first.line() == second.line()
        assert int(first.line()) + int(second.line()) == 100
        assert first.rest() == second.rest() == []
    assert check(database, is_idle=True, is_finished=True) == []


def test_many_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Processes that open a file that is not there yet at the same time all succeed."""
    database = tmp_path / "runs.db"
    children = [Child("opens_when_told", database) for _ in range(4)]
    try:
        for child in children:
            child.expect("ready")
        for child in children:
            child.say()
        assert [child.rest() for child in children] == [["0"]] * 4
    finally:
        for child in children:
            child.__exit__(None, None, None)
    assert check(database, is_idle=True) == []
