"""The disk fails at some read, write or sync, once, several times, or until it is fixed: a clear
error, nothing that was acknowledged is lost, and the same engine works again.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

import apsw
import pytest
from crash.failing_disk_workload import WORKLOADS, Fault, attempt, operations_of
from faultydisk import CODES, FULL_CODES, READING, WRITING, FaultyDisk

import durably
from durably.store.read_rows import Filters
from durably.store.sqlite import opening
from durably.store.sqlite.connection.batch_executor import BatchExecutor
from durably.store.sqlite.connection.write_request import WriteRequest
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import queries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the layout of SQLite's VFS"),
]

# Not every operation, but others for each seed: there are more than a thousand.
FAULTS = 7


@pytest.mark.parametrize("workload", list(WORKLOADS))
@pytest.mark.parametrize("kinds", [WRITING, READING], ids=["writing", "reading"])
def test_failing_operation(tmp_path: Path, seed: int, workload: str, kinds: frozenset[str]) -> None:
    """Every action goes through with the same engine when the disk works again. Until then its
    caller gets a DatabaseError with the cause, and what was rejected is not there; a step is
    executed once; no run fails for it.
    """
    rng = random.Random(seed)
    operations = operations_of(tmp_path, workload, kinds)
    assert operations > 100
    hit = 0
    for number in range(FAULTS):
        # One in each part of the workload.
        first = (number * operations + rng.randrange(operations)) // FAULTS + 1
        fault = Fault(kinds, rng.choice([CODES, FULL_CODES]), first, rng.choice([1, 1, 6, 0]))
        found, counts, _ = attempt(tmp_path, workload, fault)
        assert found == []
        hit += counts["operations failed"]
    assert hit >= FAULTS - 2  # threads may be done before the last one comes


@pytest.mark.parametrize("kinds", [WRITING, READING], ids=["writing", "reading"])
def test_opening_that_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kinds: frozenset[str]
) -> None:
    """Whatever operation of an opening fails, no descriptor of the database and no thread is left,
    and the next opening goes through.
    """
    failures = 0
    with FaultyDisk() as disk:
        monkeypatch.setattr(opening, "Database", partial(Database, vfs=disk.name))
        for first in range(1 + seed % 3, 500, 3):
            path = tmp_path / f"{first}.db"
            disk.fail(kinds, first, 1, CODES)
            try:
                durably.Durably(path).close()
            except durably.DatabaseError:
                failures += 1
            assert open_files(path) == []
            if not disk.hit:
                break
            disk.repair()
            durably.Durably(path).close()
    assert failures > 2


def test_reads_that_fail_leave_no_connection(tmp_path: Path) -> None:
    """A reader that cannot be set up is closed: a process that polls a disk that fails for
    hours must not run out of descriptors.
    """
    with FaultyDisk() as disk:
        for first in range(1, 100):
            database = Database(tmp_path / "runs.db", vfs=disk.name)
            try:
                before = len(database._connections.open)
                disk.fail(READING | WRITING, first, 1, CODES)
                if disk_fails(database):
                    assert disk.hit
                assert len(database._connections.open) == before + len(database._readers._spare)
            finally:
                disk.repair()
                database.close()
            if not disk.hit:
                break
    assert first > 8


def disk_fails(database: Database) -> bool:
    """Return whether a read gets an error."""
    try:
        database.read(queries.count, Filters())
    except durably.DatabaseError:
        return True
    return False


def open_files(path: Path) -> list[str]:
    """The database files that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:  # it was that of the folder itself
            continue
        found += [name] if name.startswith(str(path)) else []
    return found


def test_checker_sees_an_error_that_is_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that says of a commit that has failed that it went through is found out."""

    def swallow(self: BatchExecutor, batch: list[WriteRequest], exc: apsw.Error) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        for request in batch:
            request.is_done = True

    monkeypatch.setattr(BatchExecutor, "_fail", swallow)
    seen = 0
    for first in range(120, 600, 60):
        try:
            found, _, _ = attempt(tmp_path, "in this thread", Fault(WRITING, CODES, first, 3))
        except AssertionError:
            # The workload itself came to grief.
            seen += 1
        else:
            seen += bool(found)
    assert seen


def test_disk_that_fails_when_asked_to(tmp_path: Path) -> None:
    """SQLite gets the code that was asked for, at the operation that was asked for, and goes on
    without its own checkpoint where that is what fails.
    """
    with FaultyDisk() as disk:
        db = apsw.Connection(str(tmp_path / "test.db"), vfs=disk.name)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        db.execute("CREATE TABLE t (n)")
        db.wal_autocheckpoint(1)
        outcomes = []
        for n in range(1, 9):
            disk.fail(WRITING, n, 1, FULL_CODES)
            try:
                db.execute("INSERT INTO t VALUES (?)", (n,))
                outcomes.append((disk.hit[0], 0))
            except apsw.Error as exc:
                outcomes.append((disk.hit[0], exc.extendedresult))
        disk.repair()
        assert ("write test.db-wal", apsw.SQLITE_FULL) in outcomes
        assert ("sync test.db-wal", apsw.SQLITE_IOERR_FSYNC) in outcomes
        assert ("write test.db", 0) in outcomes
        assert ("sync test.db", 0) in outcomes
        stored = [n for (n,) in db.execute("SELECT n FROM t")]
        assert stored == [n for n, (_, code) in enumerate(outcomes, 1) if not code]
        disk.fail(frozenset({"open"}), 1, 1, CODES)
        with pytest.raises(apsw.CantOpenError):
            apsw.Connection(str(tmp_path / "other.db"), vfs=disk.name).pragma("user_version")
        db.close()
