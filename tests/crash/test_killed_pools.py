"""Parents of worker processes that are killed or interrupted: no worker outlives them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from children import Child
from databases import open_database
from invariants import check
from pooled import EXECUTORS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ITEMS = 300
KILLS = 2
# The promise is a second; a busy machine may need longer to say that they are gone.
GONE_S = 5.0

Eventually = Callable[[Callable[[], object]], None]


def descendants(pid: int) -> set[int]:
    """The processes that *pid* has started, and those that they have."""
    found: set[int] = set()
    left = [pid]
    while left:
        for path in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            try:
                children = {int(each) for each in path.read_text().split()}
            except OSError:
                continue
            found |= children
            left += children
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_end(pids: set[int]) -> set[int]:
    """Wait until none of them is alive; those that still are in the end, which are killed."""
    deadline = time.monotonic() + GONE_S
    while (left := {pid for pid in pids if is_alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.01)  # a condition polled with a deadline
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def stored(database: Path) -> set[int]:
    """The keys of the items that have a result."""
    if not database.exists():
        return set()
    db = open_database(database)
    try:
        query = "SELECT key FROM durably_items WHERE output IS NOT NULL"
        return {int(key) for (key,) in db.execute(query)}
    except apsw.SQLError:
        return set()  # it was killed before its first transaction
    finally:
        db.close()


def executed(folder: Path) -> list[tuple[int, int]]:
    """What was executed, in which process."""
    path = folder / "effects"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(item), int(pid)) for item, pid in (line.split() for line in lines)]


@pytest.mark.timeout(240)  # several lives of several processes
@pytest.mark.parametrize("kind", EXECUTORS)
def test_killed_parent(tmp_path: Path, seed: int, kind: str, eventually: Eventually) -> None:
    """Killed at random instants, a map executes no stored item again, and its workers end."""
    if kind == "loky":
        pytest.importorskip("loky")
    choose = random.Random(f"{seed} {kind}")
    database = tmp_path / "maps.db"
    for _ in range(KILLS):
        kept, before = stored(database), len(executed(tmp_path))
        with Child("killed_in_processes", tmp_path, kind, ITEMS) as child:
            child.expect("begins")
            if choose.random() < 0.75:
                wanted = before + choose.randint(1, 40)
                eventually(lambda wanted=wanted: len(executed(tmp_path)) >= wanted)
            else:
                time.sleep(choose.uniform(0.0, 0.4))  # while its workers start: no event shows that
            workers = descendants(child.pid)
            child.kill()
        assert all_end(workers) == set()
        again = kept & {item for item, _ in executed(tmp_path)[before:]}
        assert not again, f"seed {seed}: executed again although they are stored: {again}"
    kept, before = stored(database), len(executed(tmp_path))
    with Child("killed_in_processes", tmp_path, kind, ITEMS) as child:
        assert child.rest() == ["begins", str(ITEMS)]
    assert not kept & {item for item, _ in executed(tmp_path)[before:]}
    assert stored(database) == set(range(ITEMS))
    assert check(database, is_finished=True) == []


@pytest.mark.parametrize("kind", EXECUTORS)
def test_ctrl_c(tmp_path: Path, kind: str, eventually: Eventually) -> None:
    """Ctrl-C in the terminal fails no item, ends the workers, and keeps what is stored."""
    if kind == "loky":
        pytest.importorskip("loky")
    with Child("killed_in_processes", tmp_path, kind, 5000, has_group=True) as child:
        child.expect("begins")
        eventually(lambda: len(executed(tmp_path)) >= 10)
        workers = descendants(child.pid)
        os.killpg(child.pid, signal.SIGINT)
        child.expect("interrupted")
        assert child.wait() == 0
    assert all_end(workers) == set()
    db = open_database(tmp_path / "maps.db")
    assert db.execute("SELECT count(*) FROM durably_items WHERE error IS NOT NULL").fetchall() == [
        (0,)
    ]
    assert db.execute("SELECT status FROM durably_runs").fetchall() == [("pending",)]
    db.close()
