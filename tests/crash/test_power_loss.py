"""The power goes: with ``"full"`` nothing that was acknowledged is lost, with ``"normal"`` only the
newest, in order; the database is whole, and the rest of the work goes on from it.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from crash.powerloss_findings import Examiner, laid_out, opened, resume, states
from crash.powerloss_recording import NAME, record, recorder
from crash.powerloss_workload import cut_power
from invariants import check
from powerloss import Disk, Mark, put

from durably.errors import DatabaseError
from durably.execution.checkpoints import CheckpointReader
from durably.store.rows import NewRun
from durably.store.sqlite.blobs import writing
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.store.sqlite.sql import owners

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what SQLite syncs there"),
]

KINDS = ["sequential", "threaded", "two engines"]
# The last is added to the seed.
CASES = [
    pytest.param("sequential", 0, id="sequential"),
    pytest.param("sequential", 100, id="sequential-again"),
    pytest.param("threaded", 0, id="threaded"),
    pytest.param("two engines", 0, id="two-engines"),
]


@pytest.mark.parametrize(("kind", "other"), CASES)
def test_full_loses_nothing_that_was_acknowledged(
    tmp_path: Path, seed: int, kind: str, other: int
) -> None:
    """Whatever part of what was not synced is found: every acknowledged trigger, checkpoint, end,
    cancellation, retry and deletion is there, and the work goes on from it.
    """
    seed += other
    found, counts = cut_power(tmp_path, seed, synchronous="full", kind=kind, actions=12, images=16)
    assert found == [], f"seed {seed}"
    assert counts["resumed"]


@pytest.mark.parametrize(("kind", "other"), CASES)
def test_normal_loses_the_newest_in_order(tmp_path: Path, seed: int, kind: str, other: int) -> None:
    """What is found is what the database was after some commit, none before the last one that was
    synced, and the work goes on from there.
    """
    seed += other
    lost = 0
    # Until something is lost, or nothing was tested: what several threads leave unsynced at
    # which moment is another matter each time.
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        found, counts = cut_power(
            folder, seed + number, synchronous="normal", kind=kind, actions=12, images=16
        )
        assert found == [], f"seed {seed + number}"
        assert counts["resumed"]
        lost += counts["images without the newest acknowledged"]
        if lost:
            break
    assert lost


def test_full_loses_nothing_after_a_sync_that_failed(tmp_path: Path, seed: int) -> None:
    """A sync that failed is reported once, and what it was to write is never written: what is
    acknowledged after it is safe all the same.
    """
    found, _ = cut_power(
        tmp_path,
        seed,
        synchronous="full",
        kind="threaded",
        actions=12,
        images=16,
        failing_syncs=0.1,
    )
    assert found == [], f"seed {seed}"


@pytest.mark.parametrize(("kind", "failing_syncs"), [("sequential", 0.0), ("threaded", 0.1)])
def test_no_file_is_lost_that_a_run_refers_to(
    tmp_path: Path, seed: int, kind: str, failing_syncs: float
) -> None:
    """Results that are files are found whole with what refers to them, whatever part of the files,
    their names and the database is lost; what nothing refers to is removed.
    """
    found, counts = cut_power(
        tmp_path,
        seed,
        synchronous="full",
        kind=kind,
        actions=14,
        images=40,
        failing_syncs=failing_syncs,
        has_files=True,
    )
    assert found == [], f"seed {seed}"
    assert counts["resumed"]


def test_checker_sees_a_file_that_was_not_synced(tmp_path: Path) -> None:
    """A file that is renamed before it is on the disk is found missing or torn."""

    def lost(seed: int) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "_sync", lambda _: None)
            options: dict[str, Any] = {"kind": "sequential", "synchronous": "full"}
            return cut_power(tmp_path, seed, actions=15, images=40, has_files=True, **options)[0]

    found = next(filter(None, map(lost, range(10))))
    assert any("missing" in each or "damaged" in each for each in found)


def test_heartbeat_whose_sync_came_to_nothing_takes_no_commit_with_it(tmp_path: Path) -> None:
    """A heartbeat lies in SQLite's log before the next commit: it is synced like that one, or a
    later commit would be lost with it when a sync in between has failed.
    """
    live = tmp_path / "live"
    live.mkdir()
    with recorder() as vfs:
        database = Database(live / NAME, synchronous="full", vfs=vfs.name)
        try:
            owner = database.write(
                owners.register,
                token="0" * 26,
                boot_id="boot",
                pid=1,
                heartbeat_interval_us=1,
                now_us=1,
            )
            database.beat(owners.beat, owner, lambda: 2)
            vfs.sync_fails = lambda: True
            with pytest.raises(DatabaseError):
                database.write(enqueueing.enqueue_plain, NewRun("refused", "job", "null"), 3)
            vfs.repair()
            database.write(enqueueing.enqueue_plain, NewRun("acknowledged", "job", "null"), 4)
            disk = Disk(vfs.log)
            disk.advance(len(vfs.log))
        finally:
            database.close()
    with laid_out(disk, "everything", random.Random(0), tmp_path) as image, opened(image) as db:
        assert db.execute("SELECT id FROM durably_runs").fetchall() == [("acknowledged",)]


@pytest.mark.parametrize("failures", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("is_batch", [False, True], ids=["statement", "transaction"])
def test_rejected_trigger_is_not_found_done(tmp_path: Path, failures: int, is_batch: bool) -> None:
    """A commit whose sync fails lies whole in SQLite's log: it is overwritten before the caller is
    notified, so that a process killed at that moment does not leave done what it has rejected.
    """
    live = tmp_path / "live"
    live.mkdir()
    with recorder() as vfs:
        database = Database(live / NAME, synchronous="full", vfs=vfs.name)
        try:
            database.write(enqueueing.enqueue_plain, NewRun("acknowledged", "job", "null"), 3)
            left = [True] * failures
            vfs.sync_fails = lambda: bool(left and left.pop())
            with pytest.raises(DatabaseError):
                if is_batch:
                    news = [NewRun(f"refused {n}", "job", "x" * 5000) for n in range(2)]
                    database.write(enqueueing.enqueue_many, news, 4)
                else:
                    database.write(enqueueing.enqueue_plain, NewRun("refused", "job", "null"), 4)
            disk = Disk(vfs.log)
            disk.advance(len(vfs.log))
        finally:
            database.close()
    for lost in ("nothing", "everything"):
        with laid_out(disk, lost, random.Random(0), tmp_path) as image:
            with opened(image) as db:
                found = db.execute("SELECT id FROM durably_runs").fetchall()
            assert found == [("acknowledged",)]
            assert check(image / NAME) == []


@pytest.mark.parametrize("kind", KINDS)
def test_checker_sees_what_is_lost_without_syncs(tmp_path: Path, kind: str) -> None:
    """Without syncs, and on a disk that says that it has synced and has not, acknowledged work is
    lost and files are damaged: both are found.
    """
    wanted = {"lost": ("was acknowledged", "was to exist"), "damaged": ("unreadable", "integrity")}
    seen: set[str] = set()
    # Until both are found: which of what several threads write is lost is another matter each time.
    for seed in range(10):
        found, _ = cut_power(tmp_path, seed, synchronous="off", kind=kind, actions=15, images=40)
        for what, words in wanted.items():
            if any(word in each for word in words for each in found):
                seen.add(what)
        if len(seen) == len(wanted):
            break
    assert seen == wanted.keys()
    options: dict[str, Any] = {"synchronous": "full", "actions": 15, "images": 40}
    assert any(
        cut_power(tmp_path, seed, kind=kind, believes_syncs=False, **options)[0]
        for seed in range(10)
    )


def test_checker_sees_a_hole(tmp_path: Path) -> None:
    """One commit that is missing in the middle is no suffix, however sound the rest."""
    live = tmp_path / "live"
    live.mkdir()
    log = record(live, 3, synchronous="normal", actions=15, kind="sequential")
    shutil.rmtree(live)
    known = states(log, tmp_path)
    examiner = Examiner(log, known, tmp_path, is_full=False)
    disk = Disk(log)
    # Before the engine signs off; with steps that can be taken out.
    steps = [at for at, entry in enumerate(log) if isinstance(entry, Mark)]
    disk.advance(steps[-1] + 1)
    files = disk.after_power_loss("nothing", random.Random(0))
    image = tmp_path / "image"
    image.mkdir()
    put(files, image)
    marks = [entry for entry in log[: disk.at] if isinstance(entry, Mark)]
    assert examiner.content(image, disk, marks) == []
    with opened(image) as db:
        db.execute("DELETE FROM durably_steps WHERE step = (SELECT max(step) FROM durably_steps)")
        assert db.changes() == 1
    assert check(image / NAME, is_sequential=True) == []
    assert examiner.content(image, disk, marks) == [
        "it is not what the database was after any commit"
    ]


def test_checker_sees_a_step_that_is_executed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on from an image, an engine that does not use its checkpoints is found out."""
    live = tmp_path / "live"
    live.mkdir()
    log = record(live, 1, synchronous="full", actions=15, kind="sequential")
    disk = Disk(log)
    first = next(
        n for n, entry in enumerate(log) if isinstance(entry, Mark) and entry.verb == "stepped"
    )
    disk.advance(first + 1)
    monkeypatch.setattr(CheckpointReader, "take_result", lambda self, name: None)
    monkeypatch.setattr(CheckpointReader, "find", lambda self, name: (None, False))
    with laid_out(disk, "everything", random.Random(0), tmp_path) as image:
        assert any("executed again" in each for each in resume(image))
