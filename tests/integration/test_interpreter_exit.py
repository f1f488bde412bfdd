"""Scripts that end without stop(): none hangs, none loses anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import ROOT

import durably
from durably import Durably, RunStatus

HANG_S = 60  # only guards against hanging

# Each script gets the path. Its job leaves one checkpoint and then waits at step boundaries.
BEFORE = """
import os, signal, sys, threading
import durably

inside = threading.Event()

@durably.job("long")
def long(step, payload):
    step.run("first", int, "1")
    inside.set()
    step.sleep(100000)
    step.run("never", print, "EXECUTED TOO FAR", flush=True)

@durably.job("quick")
def quick(step):
    return step.run("only", int, "7")

def started(name="x.db", **options):
    return durably.Durably(os.path.join(sys.argv[1], name), jobs=[long, quick], **options).init()

def triggered(app, count=1):
    found = [app.jobs["long"].trigger(number) for number in range(count)]
    assert inside.wait(60)
    return found
"""

ENDINGS = {
    "the last line": "",
    "an exception": "raise ValueError('ended')",
    "sys.exit": "sys.exit(3)",
    "Ctrl-C": "signal.raise_signal(signal.SIGINT)",
    "engine dropped": "del app, run; import gc; gc.collect()",
    "an exit function": "import atexit; atexit.register(print, 'bye')",
    "a daemon thread": ("threading.Thread(target=threading.Event().wait, daemon=True).start()"),
    "a stop that timed out": (
        "try: app.stop(timeout=0.01)\nexcept durably.WaitTimeoutError: print('timed out')"
    ),
}
STATUS = {"an exception": 1, "sys.exit": 3}


def ended(folder: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run *script* to its end; a script that hangs is killed and fails the test."""
    return subprocess.run(
        [sys.executable, *options, "-c", BEFORE + script, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


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
    script = f"app = started()\nrun, = triggered(app)\n{ENDINGS[ending]}\n"
    done = ended(tmp_path, script)

    if ending == "Ctrl-C":
        assert done.returncode in (-signal.SIGINT, 130), done.stderr
    else:
        assert done.returncode == STATUS.get(ending, 0), done.stderr
        assert ("Error" in done.stderr) == (ending == "an exception")
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_a_resumed_script_does_not_repeat_the_step(tmp_path: Path) -> None:
    """The next process goes on behind the checkpoint that the interrupted one stored."""
    assert ended(tmp_path, "app = started()\ntriggered(app)").returncode == 0
    calls = []

    @durably.job("long")
    def long(step, payload):
        first = step.run("first", lambda: calls.append("again"))
        return first + step.run("second", int, "2")

    with Durably(tmp_path / "x.db", jobs=[long], stale_threshold=9999) as app:
        (run,) = app.get_runs()
        assert app.wait(run, timeout=HANG_S).output == 3
    assert calls == []


def test_several_runs_and_those_that_wait(tmp_path: Path) -> None:
    """Runs in progress go back, runs that wait for a slot were never touched."""
    done = ended(
        tmp_path,
        """
        app = started(max_workers=2)
        triggered(app, 5)
        while app.count_runs(status="running") < 2 or any(
            not run.completed_steps for run in app.get_runs(status="running")
        ):
            pass
        """.replace("\n        ", "\n"),
    )
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
    done = ended(
        tmp_path,
        """
        @durably.job("stepping")
        def stepping(step):
            def work():
                inside.set()
                while not step.cancelled:  # until the script has ended
                    pass
                return 5
            step.run("work", work)
            step.run("never", print, "EXECUTED TOO FAR", flush=True)

        app = started()
        app.register(stepping).trigger()
        assert inside.wait(60)
        """.replace("\n        ", "\n"),
    )
    assert done.returncode == 0, done.stderr
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_several_engines(tmp_path: Path) -> None:
    """Each engine of the process is stopped, on whatever file."""
    done = ended(
        tmp_path,
        "apps = [started(f'{number}.db') for number in range(3)]\n"
        "for app in apps: inside.clear(); triggered(app)\n",
    )
    assert done.returncode == 0, done.stderr
    for number in range(3):
        assert_went_back(tmp_path / f"{number}.db")


def test_one_engine_that_cannot_be_closed_keeps_no_other_from_it(tmp_path: Path) -> None:
    """Errors at the end are logged; every engine is stopped, and the process ends."""
    done = ended(
        tmp_path,
        """
        apps = [started(f"{number}.db") for number in range(3)]
        for app in apps:
            inside.clear()
            triggered(app)
        def refuse(*_, **__):
            raise durably.DatabaseError("the disk is full")
        for app in apps[:2]:
            app._flusher.flush_lines = refuse
        """.replace("\n        ", "\n"),
    )
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stderr
    for number in range(3):
        assert_went_back(tmp_path / f"{number}.db")


def test_engines_that_a_thread_opens_again_and_again(tmp_path: Path) -> None:
    """A thread that goes on opening engines while the interpreter ends does not keep it from its
    end: an engine that would never be closed is refused.
    """
    done = ended(
        tmp_path,
        """
def again_and_again():
    kept, n = [], 0
    try:
        while True:
            n += 1
            kept.append(started(f"{n % 3}.db"))
            going.set()
    except durably.EngineClosedError as exc:
        print(exc, flush=True)

going = threading.Event()
threading.Thread(target=again_and_again).start()
assert going.wait(60)
""",
    )
    assert done.returncode == 0, done.stderr
    assert "the interpreter is ending" in done.stdout


def test_an_engine_that_was_never_started(tmp_path: Path) -> None:
    """Opening, triggering and ending is enough: the run is stored."""
    done = ended(
        tmp_path,
        "app = durably.Durably(sys.argv[1] + '/x.db', jobs=[quick])\n"
        "print(app.jobs['quick'].trigger().id)",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = stored(tmp_path / "x.db")
    assert run.id == done.stdout.strip()


def test_what_was_triggered_right_before_the_end(tmp_path: Path) -> None:
    """Every trigger that returned is stored: completed, or pending for the next process."""
    done = ended(
        tmp_path, "app = started()\nfor _ in range(30): print(app.jobs['quick'].trigger().id)"
    )
    assert done.returncode == 0, done.stderr
    found = stored(tmp_path / "x.db")
    assert [run.id for run in found] == done.stdout.split()
    assert {run.status for run in found} <= {RunStatus.PENDING, RunStatus.COMPLETED}


@pytest.mark.parametrize(
    ("raised", "status"),
    [("raise ValueError('left')", 1), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", -2)],
)
def test_a_with_block_that_is_left_by_an_exception(
    tmp_path: Path, raised: str, status: int
) -> None:
    """The run is interrupted at its next boundary and pending; the exception ends the script."""
    done = ended(tmp_path, f"with started() as app:\n    triggered(app)\n    {raised}\n")
    assert done.returncode == status, done.stderr
    assert "EXECUTED TOO FAR" not in done.stdout
    assert_went_back(tmp_path / "x.db")


def test_ctrl_c_while_a_clean_exit_waits(tmp_path: Path) -> None:
    """The wait at the end of the block ends, and the run goes back to pending."""
    done = ended(
        tmp_path,
        """
        def interrupt():
            assert inside.wait(60)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Thread(target=interrupt).start()
        with started() as app:
            app.jobs["long"].trigger(1)
        """.replace("\n        ", "\n"),
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert_went_back(tmp_path / "x.db")


def test_a_worker_thread_of_the_users_outlives_the_main_one(tmp_path: Path) -> None:
    """A thread that still uses the engine gets EngineClosedError; its runs are kept."""
    done = ended(
        tmp_path,
        """
        app = started()
        triggered(app)
        def use():
            try:
                while True:
                    app.jobs["quick"].trigger(idempotency_key="same")
            except durably.EngineClosedError:
                print("told", flush=True)
        threading.Thread(target=use).start()
        """.replace("\n        ", "\n"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "told"
    assert stored(tmp_path / "x.db")[0].status is RunStatus.PENDING


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Without any end its run stays as it was, and the next engine takes it up at once."""
    done = ended(tmp_path, "app = started()\ntriggered(app)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    (run,) = stored(tmp_path / "x.db")
    assert (run.status, run.completed_steps) == (RunStatus.RUNNING, 1)

    @durably.job("long")
    def long(step, payload):
        return step.run("first", lambda: "again")

    with Durably(tmp_path / "x.db", jobs=[long], stale_threshold=9999) as app:
        assert app.wait(run.id, timeout=HANG_S).output == 1


def test_no_warning_is_given_at_the_end(tmp_path: Path) -> None:
    """With all warnings shown and development mode on, the end of a script is silent."""
    done = ended(tmp_path, "app = started()\ntriggered(app)", "-X", "dev", "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
