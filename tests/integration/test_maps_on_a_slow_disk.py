"""Maps while the disk takes its time."""

from __future__ import annotations

import sys
import threading
from functools import partial

import pytest
from engines import GRACE_S, engine, execute
from faultydisk import FaultyDisk

from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

WORKERS = 8
ROUNDS = 3


@pytest.mark.skipif(sys.platform != "linux", reason="the layout of SQLite's VFS")
def test_no_worker_waits_for_the_disk(tmp_path, monkeypatch):
    """While a commit is held in its sync, all workers go on, up to ``max_uncommitted`` results."""
    most = WORKERS * ROUNDS
    at_once = threading.Barrier(WORKERS)
    has_begun, most_have_ended = threading.Event(), threading.Event()
    ended: list[int] = []
    seen: list[tuple[bool, int]] = []

    def hold(operation, file):
        if operation == "sync" and file.endswith("-wal") and has_begun.is_set() and not seen:
            seen.append((most_have_ended.wait(GRACE_S), len(ended)))

    def work(item):
        has_begun.set()
        at_once.wait(GRACE_S)  # the others are inside of an item, too: none waits
        ended.append(item)
        if len(ended) == most:
            most_have_ended.set()
        return item

    def job(step):
        step.map("m", work, range(5 * most), max_workers=WORKERS, max_uncommitted=most)

    with FaultyDisk() as disk:
        disk.before = hold
        monkeypatch.setattr(opening, "Database", partial(Database, vfs=disk.name))
        with engine(tmp_path, job, synchronous="full") as app:
            run = execute(app)
            assert run.status == "completed", run.error
            assert app.get_steps(run)[0].items.done == 5 * most
    assert seen == [(True, most)]
