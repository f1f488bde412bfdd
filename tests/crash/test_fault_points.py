"""Killed at every point of the write path, and at every write and sync of the file: whatever was
acknowledged is there, and whatever was not is wholly there or not at all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import execute
from invariants import check, check_history

import durably
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue as enqueueing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]


@pytest.mark.timeout(600)  # hundreds of processes, one after the other
@pytest.mark.parametrize(
    ("how", "stride", "names"),
    [
        # Not every one, but others with another seed: there are 80 of the one kind, and 500 of the
        # other, most of which are writes of pages in a row.
        ("points", 8, "before commit,committed,write"),
        ("io", 20, "before delete,before sync,before write"),
    ],
)
def test_killed_at_each_point(tmp_path: Path, seed: int, how: str, stride: int, names: str) -> None:
    """Killed at any point of the write path, an engine loses nothing that it has acknowledged, and
    the next one finishes the work without executing a checkpointed step again.
    """
    first = seed % stride + 1
    print(f"from {first} in steps of {stride}")
    done = execute("killed_at_each_point", tmp_path, how, first, stride, timeout_s=590)
    assert done.returncode == 0, done.stdout + done.stderr
    reached, number = done.stdout.split("\n")[:2]
    assert set(names.split(",")) <= set(reached.split(","))
    assert int(number) > 2 * stride
    for n in range(first, int(number) + 1, stride):
        assert_sound(tmp_path / str(n), f"killed at point {n} of {number}")


def assert_sound(folder: Path, when: str) -> None:
    """What the killed process and the next one left is whole."""
    database = folder / "runs.db"
    for path in folder.glob("*.owner-*"):
        # Killed between its lock and its owner row: swept later.
        path.unlink()
    found = check(database, is_sequential=True, is_idle=True, is_finished=True)
    assert found == [], when
    lines = (folder / "effects").read_text().splitlines(keepends=True)
    history = [line for line in lines if not line.startswith("acknowledged")]
    assert check_history(history) == [], when
    app = durably.Durably(database)
    try:
        deleted = {line.split()[2] for line in lines if line.startswith("acknowledged deleted")}
        for line in lines:
            if line.startswith("acknowledged trigger"):
                run = app.get_run(line.split()[2])
                assert run is not None, when
                assert (run.status, run.completed_steps) in (
                    ("completed", 3),
                    # Killed between the cancel and the retry.
                    ("cancelled", 0),
                ), when
        assert all(app.get_run(run_id) is None for run_id in deleted), when
        # Half a batch is none: the first run, two of a batch, the cancelled one, by each life.
        keyed = [run for run in app.get_runs() if run.concurrency_key == "key"]
        plain = [run for run in app.get_runs() if run.concurrency_key is None]
        assert len([run for run in keyed if run.idempotency_key is None]) <= 2, when
        assert len(plain) <= 6, when
        # Its two failures are neither forgotten nor counted twice, and each try comes.
        [tried] = app.get_runs(job_name="flaky")
        outcomes = [each.outcome for each in app.get_attempts(tried)]
        assert (tried.failures, outcomes.count("failed")) == (2, 2), when
        assert len(app.get_runs(labels={"a": "b"})) == 1, when
    finally:
        app.close()


def test_points_of_the_write_path(tmp_path: Path) -> None:
    """A lone statement reaches ``write`` and ``committed``, a transaction ``before commit`` too."""
    reached: list[str] = []
    database = Database(tmp_path / "runs.db", fault_point=reached.append)
    try:
        new = enqueueing.NewRun(id="a", job_name="job", payload="null")
        database.write(enqueueing.enqueue_plain, new, 1)
        assert reached == ["write", "committed"]
        reached.clear()
        database.write(enqueueing.enqueue_many, [new._replace(id="b")], 1)
        assert reached == ["write", "before commit", "committed"]
    finally:
        database.close()
    assert check(tmp_path / "runs.db", is_idle=True) == []
