"""Scripts that end without stop(): none hangs, none loses anything."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from children import execute

import durably
from durably import Durably, RunStatus

HANG_S = 60  # only guards against hanging

STATUS = {"an exception": 1, "sys.exit": 3}
ENDINGS = [
    "the last line",
    "an exception",
    "sys.exit",
    "Ctrl-C",
    "engine dropped",
    "an exit function",
    "a daemon thread",
    "a stop that timed out",
]


def ended(folder: Path, *args: str, options: Sequence[str] = ()) -> CompletedProcess[str]:
    """Execute ``programs/ends.py`` to its end; one that hangs is killed and raises."""
    return execute("ends", folder, *args, options=options, timeout_s=HANG_S)


def stored(path: Path) -> list[durably.Run[Any, Any]]:
    app = Durably(path)
    try:
        return sorted(app.get_runs(), key=lambda run: run.id)
    finally:
        app.close()


def assert_went_back(path: Path, count: int = 1) -> None:
    """All runs are pending, nobody's, and go on at once from their first checkpoint."""
    found = stored(path)
    assert [(run.status, run.completed_steps, run.attempt) for run in found] == [
        (RunStatus.PENDING, 1, 1)
    ] * count
    assert [each.name for each in path.parent.iterdir() if ".owner-" in each.name] == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_script_ends(tmp_path: Path, ending: str) -> None:
    """It ends by itself; its run is pending again, with its checkpoint."""
    done = ended(tmp_path, "end_in", ending)

    if ending == "Ctrl-C":
        assert done.returncode in (-signal.SIGINT, 130), done.stderr
    else:
        assert done.returncode == STATUS.get(ending, 0), done.stderr
        assert ("Error" in done.stderr) == (ending == "an exception")
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_a_resumed_script_does_not_repeat_the_step(tmp_path: Path) -> None:
    """The next process goes on behind the checkpoint that the interrupted one stored."""
    assert ended(tmp_path, "in_a_step").returncode == 0
    calls = []

    @durably.job("long", origin="any")
    def long(step, payload):
        first = step.run("first", lambda: calls.append("again"))
        return first + step.run("second", int, "2")

    with Durably(tmp_path / "x.db", jobs=[long], stale_threshold=9999) as app:
        (run,) = app.get_runs()
        assert app.wait(run, timeout=HANG_S).output == 3
    assert calls == []


def test_several_runs_and_those_that_wait(tmp_path: Path) -> None:
    """Runs in progress go back, runs that wait for a slot were never touched."""
    done = ended(tmp_path, "several_runs")
    assert done.returncode == 0, done.stderr
    assert "EXECUTED TOO FAR" not in done.stdout
    found = stored(tmp_path / "x.db")
    assert {run.status for run in found} == {RunStatus.PENDING}
    assert sorted((run.attempt, run.completed_steps) for run in found) == [
        (0, 0),
        (0, 0),
        (0, 0),
        (1, 1),
        (1, 1),
    ]


def test_the_step_in_progress_is_finished_and_stored(tmp_path: Path) -> None:
    """A step that is executing when the script ends keeps its result."""
    done = ended(tmp_path, "step_in_progress")
    assert done.returncode == 0, done.stderr
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_several_engines(tmp_path: Path) -> None:
    """Each engine of the process is stopped, on whatever file."""
    done = ended(tmp_path, "several_engines")
    assert done.returncode == 0, done.stderr
    for number in range(3):
        assert_went_back(tmp_path / f"{number}.db")


def test_one_engine_that_cannot_be_closed_keeps_no_other_from_it(tmp_path: Path) -> None:
    """Errors at the end are logged; every engine is stopped, and the process ends."""
    done = ended(tmp_path, "engines_that_cannot_be_closed")
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stderr
    for number in range(3):
        assert_went_back(tmp_path / f"{number}.db")


def test_engines_that_a_thread_opens_again_and_again(tmp_path: Path) -> None:
    """A thread that goes on opening engines while the interpreter ends does not keep it from its
    end: an engine that would never be closed is rejected.
    """
    done = ended(tmp_path, "opened_again_and_again")
    assert done.returncode == 0, done.stderr
    assert "the interpreter is ending" in done.stdout


def test_an_engine_that_was_never_started(tmp_path: Path) -> None:
    """Opening, triggering and ending is enough: the run is stored."""
    done = ended(tmp_path, "never_started")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = stored(tmp_path / "x.db")
    assert run.id == done.stdout.strip()


def test_what_was_triggered_right_before_the_end(tmp_path: Path) -> None:
    """Every trigger that returned is stored: completed, or pending for the next process."""
    done = ended(tmp_path, "triggered_right_before")
    assert done.returncode == 0, done.stderr
    found = stored(tmp_path / "x.db")
    assert [run.id for run in found] == done.stdout.split()
    assert {run.status for run in found} <= {RunStatus.PENDING, RunStatus.COMPLETED}


@pytest.mark.parametrize(
    ("raised", "status"),
    [("ValueError", 1), ("SystemExit", 3), ("KeyboardInterrupt", -2)],
)
def test_a_with_block_that_is_left_by_an_exception(
    tmp_path: Path, raised: str, status: int
) -> None:
    """The run is interrupted at its next boundary and pending; the exception ends the script."""
    done = ended(tmp_path, "with_block", raised)
    assert done.returncode == status, done.stderr
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_ctrl_c_while_a_clean_exit_waits(tmp_path: Path) -> None:
    """The wait at the end of the block ends, and the run goes back to pending."""
    done = ended(tmp_path, "interrupted_at_the_end_of_a_block")
    assert done.returncode == -signal.SIGINT, done.stderr
    assert_went_back(tmp_path / "x.db")


def test_a_worker_thread_of_the_users_outlives_the_main_one(tmp_path: Path) -> None:
    """A thread that still uses the engine gets EngineClosedError; its runs are kept."""
    done = ended(tmp_path, "used_by_another_thread")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "told"
    assert stored(tmp_path / "x.db")[0].status is RunStatus.PENDING


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Without any end its run stays as it was, and the next engine takes it up at once."""
    done = ended(tmp_path, "killed")
    assert done.returncode == -signal.SIGKILL
    (run,) = stored(tmp_path / "x.db")
    assert (run.status, run.completed_steps) == (RunStatus.RUNNING, 1)

    @durably.job("long", origin="any")
    def long(step, payload):
        return step.run("first", lambda: "again")

    with Durably(tmp_path / "x.db", jobs=[long], stale_threshold=9999) as app:
        assert app.wait(run.id, timeout=HANG_S).output == 1


def test_no_warning_is_given_at_the_end(tmp_path: Path) -> None:
    """With all warnings shown and development mode on, the end of a script is silent.

    An end that takes longer than half a second may say what it waits for.
    """
    done = ended(tmp_path, "in_a_step", options=["-X", "dev", "-W", "error"])
    said = [line for line in done.stderr.splitlines() if "; press Ctrl-C to leave it" not in line]
    assert (done.returncode, said) == (0, [])
