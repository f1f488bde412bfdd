"""A dead owner: noticed at once by the kernel-held lock it has lost, without any timeout."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import Eventually, has_ended, held
from databases import open_database
from invariants import check

import durably
from durably.store.sqlite.locks import owner_lock as liveness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and watches processes")

BEAT_S = 5.0
THRESHOLD_S = 30.0  # the defaults: every wait of a test is shorter than that


@durably.job(origin="any")
def hold(step: durably.StepContext) -> str:
    """The same job as in the other process, executed by the one that takes over."""
    step.run("before", int)
    step.run("held", str, "from the second")
    step.run("after", str, "after")
    return "by the second"


@contextmanager
def survivor(
    database: Path, *jobs: durably.Job, start: bool = True, **options: float
) -> Iterator[tuple[durably.Durably, list[tuple[str, str]]]]:
    """An engine, and what it recovers and starts."""
    told: list[tuple[str, str]] = []
    app = durably.Durably(database, jobs=jobs, **options)
    app.on("run:recover", lambda event: told.append((event.reason, event.run_id)))
    app.on("run:start", lambda event: told.append(("start", event.run_id)))
    try:
        if start:
            app.start()
        yield app, told
        if not app._supervisor.state.is_closed:
            app.stop()
    finally:
        app.close()


def owners(database: Path) -> list[tuple[str, int]]:
    """Token and process of every owner row."""
    with open_database(database) as db:
        return db.execute("SELECT token, pid FROM durably_owners").fetchall()


def change(database: Path, sql: str) -> None:
    """What a test has to forge."""
    db = open_database(database)
    db.execute(sql)
    db.close()


def test_running_engine_notices_a_dead_process_at_once(tmp_path: Path) -> None:
    """A running engine recovers the run of a killed process long before the threshold, goes on from
    its checkpoints, and tidies up its owner row and lock file.
    """
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S) as (child, run_id),
        survivor(database, hold) as (app, told),
    ):
        child.kill()
        run = app.wait(run_id, timeout=20)
        assert told == [("dead", run_id), ("start", run_id)]
        assert (run.output, run.attempt) == ("by the second", 2)
        assert [step.attempt for step in app.get_steps(run_id)] == [1, 2, 2]
        assert [pid for _, pid in owners(database)] == [os.getpid()]
    assert check(database, is_idle=True, is_finished=True) == []


def test_live_process_is_left_alone(tmp_path: Path, eventually: Eventually) -> None:
    """A starting engine, and one that checks again and again, take nothing from the living."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S) as (child, run_id),
        survivor(database, hold) as (app, told),
    ):
        reaper, looks = app._supervisor._reaper, []
        recover = reaper.recover
        reaper.recover = lambda: (looks.append(None), recover())[1]
        eventually(lambda: len(looks) > 4)
        child.say()
        child.expect("after")
        assert app.wait(run_id, timeout=20).output == "by the first"
        assert told == []
    assert check(database, is_finished=True) == []


@pytest.mark.parametrize("how", ["start", "run_until_idle", "process_one", "with"])
def test_engine_recovers_the_dead_before_its_first_claim(tmp_path: Path, how: str) -> None:
    """Whatever makes an engine execute runs first puts back those of dead processes."""
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S) as (child, run_id):
        child.kill()
    with survivor(database, hold, start=False, max_workers=1) as (app, told):
        # A run that is not tried yet starts before the one whose process died.
        later = app.jobs["hold"].trigger()
        if how == "start":
            app.start()
        elif how == "run_until_idle":
            assert app.run_until_idle() == 2
        elif how == "process_one":
            assert app.process_one()
            assert app.process_one()
        else:
            with app:
                pass
        if how == "with":
            assert [kind for kind, _ in told] == ["dead", "start", "start"]
        else:
            assert app.wait(later, timeout=20).attempt == 1
            assert app.wait(run_id, timeout=20).attempt == 2
        assert told[:2] == [("dead", run_id), ("start", later.id)]
    assert check(database, is_idle=True, is_finished=True) == []


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "subprocess"])
def test_children_of_a_dead_process_do_not_keep_it_alive(tmp_path: Path, how: str) -> None:
    """The death of a process is noticed although children that its step has made live on."""
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S, f"--held={how}") as (child, run_id):
        grandchild = int(child.line())
        try:
            with survivor(database, hold) as (app, told):
                child.kill()
                assert app.wait(run_id, timeout=20).output == "by the second"
                assert told[0] == ("dead", run_id)
                assert not has_ended(grandchild)
        finally:
            os.kill(grandchild, signal.SIGKILL)
    assert check(database, is_idle=True, is_finished=True) == []


def test_missing_lock_file_is_not_death(tmp_path: Path, eventually: Eventually) -> None:
    """An owner whose lock file somebody has removed keeps its run while its heart beats."""
    database = tmp_path / "runs.db"
    with held(database, 0.05, 0.2) as (child, run_id):
        ((token, _),) = owners(database)
        Path(f"{database}.owner-{token}").unlink()
        with survivor(database, hold, heartbeat_interval=0.1, stale_threshold=0.5) as (app, told):
            heartbeat = app._supervisor._heartbeat
            seen = heartbeat.committed
            eventually(lambda: heartbeat.committed > seen + 10)
            assert told == []
            child.say()
            child.expect("after")
            assert app.wait(run_id, timeout=20).output == "by the first"
    assert check(database, is_finished=True) == []


def test_dead_owner_without_a_lock_file_counts_as_hung(tmp_path: Path) -> None:
    """An owner that died without a lock file is found by its missing heartbeats."""
    database = tmp_path / "runs.db"
    with held(database, 0.05, 0.2) as (child, run_id):
        ((token, _),) = owners(database)
        Path(f"{database}.owner-{token}").unlink()
        child.kill()
    with survivor(database, hold, heartbeat_interval=0.05, stale_threshold=0.2) as (app, told):
        assert app.wait(run_id, timeout=20).attempt == 2
        assert told[0] == ("stale", run_id)
    assert check(database, is_finished=True) == []


def test_dead_owner_without_a_lock_file_does_not_hold_a_key_for_ever(
    tmp_path: Path, eventually: Eventually
) -> None:
    """The key of a cancelled run is free when its process has died, also if somebody had removed
    the lock file, and nothing of the owner is left.
    """
    database = tmp_path / "runs.db"
    options = {"heartbeat_interval": 0.05, "stale_threshold": 0.2}
    with held(database, 0.05, 0.2, "--key=one") as (child, run_id):
        ((token, _),) = owners(database)
        Path(f"{database}.owner-{token}").unlink()
        with survivor(database, hold, start=False, **options) as (app, told):
            app.cancel(run_id)
            other = app.jobs["hold"].trigger(concurrency_key="one")
            child.kill()
            app.start()
            assert app.wait(other, timeout=20).attempt == 1
            assert told == [("start", other.id)]
    assert check(database, is_idle=True, is_finished=True) == []


def test_living_owner_that_was_forgotten_registers_anew(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A process without a lock file that hung past the threshold loses its run, and is an owner
    like any other when it goes on.
    """
    database = tmp_path / "runs.db"
    with held(database, 0.05, 0.2) as (child, run_id):
        ((token, _),) = owners(database)
        Path(f"{database}.owner-{token}").unlink()
        child.stop(database)
        with survivor(database, heartbeat_interval=0.05, stale_threshold=0.2) as (_, told):
            eventually(lambda: told == [("stale", run_id)])
            child.go_on()
            child.say()
            child.expect("stopped OwnershipLost")
            assert child.line() == f"inside 2 {run_id}"
            eventually(lambda: len(owners(database)) == 2)
            child.kill()
            eventually(lambda: told == [("stale", run_id), ("dead", run_id)])
    assert check(database, is_idle=True) == []


def test_owner_of_an_earlier_start_of_the_machine_is_dead(tmp_path: Path) -> None:
    """After a reboot the lock file of an owner lies there and is free: the owner is dead at
    once.
    """
    database = tmp_path / "runs.db"
    with held(database, BEAT_S, THRESHOLD_S) as (child, run_id):
        child.kill()
    change(database, "UPDATE durably_owners SET boot_id = 'another'")
    with survivor(database, hold) as (app, told):
        assert app.wait(run_id, timeout=20).attempt == 2
        assert told[0] == ("dead", run_id)
    assert check(database, is_idle=True, is_finished=True) == []


@pytest.mark.parametrize("file", ["held", "missing"])
@pytest.mark.parametrize("inside", ["owner", "observer"])
def test_container_with_a_boot_id_of_its_own_is_left_alone(
    tmp_path: Path,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    inside: str,
    file: str,
) -> None:
    """A container may show another boot id than its host: a live owner keeps its run, whichever
    of the two sees which, and also if its lock file was removed.
    """
    database = tmp_path / "runs.db"
    options = ["--boot-id=of a container"] if inside == "owner" else []
    if inside == "observer":
        monkeypatch.setattr(liveness, "current_boot_id", lambda: "of a container")
    with held(database, BEAT_S, THRESHOLD_S, *options) as (child, run_id):
        if file == "missing":
            ((token, _),) = owners(database)
            Path(f"{database}.owner-{token}").unlink()
        with survivor(database, hold) as (app, told):
            reaper, looks = app._supervisor._reaper, []
            recover = reaper.recover
            reaper.recover = lambda: (looks.append(None), recover())[1]
            eventually(lambda: len(looks) > 4)
            child.say()
            child.expect("after")
            assert app.wait(run_id, timeout=20).output == "by the first"
            assert told == []
    assert check(database, is_finished=True) == []


def test_cancelled_run_holds_its_key_until_its_process_has_died(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A run that was cancelled in the middle of a step holds its key; the death of its process
    frees it at once, and the run stays cancelled.
    """
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S, "--key=one") as (child, run_id),
        survivor(database, hold) as (app, told),
    ):
        app.cancel(run_id)
        other = app.jobs["hold"].trigger(concurrency_key="one")
        free = app.jobs["hold"].trigger(concurrency_key="two")
        assert app.wait(free, timeout=20).output == "by the second"
        assert app.get_run(other.id).status == "pending"
        assert check(database) == []
        child.kill()
        assert app.wait(other, timeout=20).output == "by the second"
        assert app.get_run(run_id).status == "cancelled"
        assert ("dead", run_id) not in told  # nothing of it was put back
    assert check(database, is_idle=True, is_finished=True) == []


def test_cancelled_run_frees_its_key_when_its_job_leaves_the_step(tmp_path: Path) -> None:
    """The key of a run that was cancelled is free once its job has stopped, in a living process."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S, "--key=one") as (child, run_id),
        survivor(database, hold) as (app, _),
    ):
        app.cancel(run_id)
        other = app.jobs["hold"].trigger(concurrency_key="one")
        child.say()
        child.expect("stopped RunCancelled")
        child.say()  # either process may execute it; that one's job waits for a line
        assert app.wait(other, timeout=20).attempt == 1
        names = [(step.name, step.status) for step in app.get_steps(run_id)]
        assert names == [("before", "completed"), ("held", "cancelled")]
    assert check(database, is_finished=True) == []


@pytest.mark.parametrize("key", ["one", None])
def test_retried_run_waits_for_the_death_of_its_old_process(
    tmp_path: Path, key: str | None
) -> None:
    """A run that was cancelled and retried while its job was inside a step stays pending until
    that job has stopped or its process has died, and is claimed at once then.
    """
    database = tmp_path / "runs.db"
    arguments = (database, BEAT_S, THRESHOLD_S, *([f"--key={key}"] if key else []))
    with held(*arguments) as (child, run_id), survivor(database, hold) as (app, told):
        app.cancel(run_id)
        assert app.retry(run_id).status == "pending"
        assert app.jobs["hold"].trigger_and_wait(timeout=20).output == "by the second"
        assert app.get_run(run_id).status == "pending"
        assert check(database) == []
        child.kill()
        run = app.wait(run_id, timeout=20)
        assert (run.output, run.attempt) == ("by the second", 2)
        assert ("dead", run_id) not in told  # it was pending already
    assert check(database, is_idle=True, is_finished=True) == []


def test_retried_run_goes_on_when_its_old_job_has_stopped(tmp_path: Path) -> None:
    """A run that was cancelled and retried is claimed once its old job has left the step."""
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S, "--key=one") as (child, run_id),
        survivor(database, hold) as (app, _),
    ):
        app.cancel(run_id)
        app.retry(run_id)
        child.say()
        assert child.line().startswith("stopped ")
        child.say()  # either process may go on with it; that one's job waits for a line
        assert app.wait(run_id, timeout=20).attempt == 2
    assert check(database, is_finished=True) == []


def test_wait_ends_when_the_last_process_that_could_execute_dies(tmp_path: Path) -> None:
    """A wait in an engine that was not started goes on while another process executes the run, and
    raises NoWorkerError when that has died.
    """
    database = tmp_path / "runs.db"
    with (
        held(database, BEAT_S, THRESHOLD_S) as (child, run_id),
        survivor(database, hold, start=False) as (app, _),
    ):
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                app.wait(run_id)
            except BaseException as exc:
                raised.append(exc)

        waiter = threading.Thread(target=wait)
        waiter.start()
        waiter.join(1.5)  # it looks for workers once a second
        assert waiter.is_alive()
        child.kill()
        waiter.join(20)
        assert [type(exc) for exc in raised] == [durably.NoWorkerError]
        assert app.get_run(run_id).status == "running"
        app.start()
        assert app.wait(run_id).attempt == 2
    assert check(database, is_idle=True, is_finished=True) == []


def test_killed_before_its_owner_row_leaves_a_lock_that_is_swept(tmp_path: Path) -> None:
    """The lock file of a process that died before its owner row was stored is removed later, and
    those of the living are not.
    """
    database = tmp_path / "runs.db"
    orphan = tmp_path / f"runs.db.owner-{'0' * 26}"
    orphan.touch()
    os.utime(orphan, (0, 0))
    with (
        held(database, BEAT_S, THRESHOLD_S),
        survivor(database, hold) as (app, _),
    ):
        app._supervisor._reaper._sweep()
        assert not orphan.exists()
        assert len(list(tmp_path.glob("*.owner-*"))) == 2
