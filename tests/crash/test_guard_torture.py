"""Two processes write while other code in each of them opens and closes the database's files.

Without the guard and the mutex this loses acknowledged commits, corrupts the file, or ends the
processes with SIGBUS, most of the time.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from children import Child

SECONDS = 4.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the guard needs OFD locks"),
]


def torture(database: str, *scenes: str, how: str = "", seconds: float = 0.0) -> list[str]:
    """Execute ``programs/guard_torture.py`` for each scene at once; return what they print."""
    with contextlib.ExitStack() as running:
        children = [
            running.enter_context(Child("guard_torture", database, scene, how, seconds))
            for scene in scenes
        ]
        return [line for child in children for line in child.rest()]


def assert_nothing_lost(database: str, acknowledged: list[str]) -> None:
    verdict, *stored = torture(database, "examine")
    assert verdict == "ok"
    expected = {line.split()[0]: line.split()[1] for line in acknowledged}
    for who, n in expected.items():
        assert n == "0" or f"{who} {n} {n}" in stored


@pytest.mark.parametrize("how", ["sqlite3", "open"])
def test_no_acknowledged_commit_is_lost_to_a_foreign_close(tmp_path: Path, how: str) -> None:
    """Every acknowledged row is there and the file is sound, with a foreign close every 3 ms."""
    database = str(tmp_path / "runs.db")

    acknowledged = torture(database, "write", "write", how=how, seconds=SECONDS)

    assert_nothing_lost(database, acknowledged)


def test_engines_open_and_close_at_once(tmp_path: Path) -> None:
    """Threads of two processes open, write and close at once; nothing is lost or left open."""
    database = str(tmp_path / "runs.db")

    acknowledged = torture(database, "churn", "churn", seconds=SECONDS)

    assert_nothing_lost(database, acknowledged)


def test_foreign_close_does_not_delete_the_log(tmp_path: Path) -> None:
    """A second SQLite library in the process does not take itself for the last connection."""
    database = str(tmp_path / "runs.db")

    acknowledged = torture(database, "keep_the_wal", how="kill")

    assert Path(f"{database}-wal").exists()
    assert_nothing_lost(database, acknowledged)


def test_last_close_tidies_up(tmp_path: Path) -> None:
    """After release, SQLite's last close removes the log and the shared memory."""
    database = str(tmp_path / "runs.db")

    torture(database, "keep_the_wal", how="close")

    assert {path.name for path in tmp_path.iterdir()} == {"runs.db", "runs.db.writer"}


def test_database_opened_in_a_forked_child_outlives_the_parent(tmp_path: Path) -> None:
    """The log of one who opened the database after a fork is safe when the parent has died."""
    database = str(tmp_path / "runs.db")
    with Child("guard_torture", database, "fork", "", 0) as parent:
        parent.expect("ready")
        parent.kill()
        for n in range(1, 4):
            assert_nothing_lost(database, ["parent 1"])
            parent.say()
            parent.expect("ready" if n < 3 else "done")
            assert_nothing_lost(database, ["parent 1", f"child {n}"])
