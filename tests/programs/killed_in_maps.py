"""Kills children at random instants of a map, again and again, and lets a last one finish.

It forks a new process for each life, and reads what a life has stored once it is dead. An item that
was stored must not be executed by a later life, and no life may lose more than it may have begun.

Arguments: the folder of the database, the number of kills, the seed, and the number of workers.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import apsw
from invariants import check

import durably

folder, kills, seed, workers = sys.argv[1], *map(int, sys.argv[2:])
database = Path(folder) / "maps.db"
ITEMS = 400
UNCOMMITTED = 20
effects = os.open(Path(folder) / "effects", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
random_of_parent = random.Random(seed)


def work(item):
    os.write(effects, f"{item}\n".encode())
    if item % 50 == 7 and not (Path(folder) / f"tried-{item}").exists():
        (Path(folder) / f"tried-{item}").touch()
        raise ValueError(item)
    if item % 16 == 3:
        time.sleep(0.002)  # some are slow
    return f"{item}!"


@durably.job
def job(step):
    result = step.map(
        "m",
        work,
        (n for n in range(ITEMS)),
        key=lambda n: n * 3,
        max_workers=workers,
        max_uncommitted=UNCOMMITTED,
        retry=durably.Retry(attempts=2, wait=0.001),
    )
    assert result == [f"{n}!" for n in range(ITEMS)]
    return len(result)


def live():
    app = durably.Durably(database, synchronous="normal", max_deaths=100_000)
    try:
        if app.run(job, key="one").output != ITEMS:
            os._exit(3)
    finally:
        app.close()


def stored():
    if not database.exists():
        return {}
    db = apsw.Connection(str(database))
    try:
        rows = db.execute("SELECT key, output FROM durably_items WHERE output IS NOT NULL")
        return dict(rows.fetchall())
    except apsw.SQLError:
        return {}  # it was killed before its first transaction
    finally:
        db.close()


def executed_since(offset):
    os.lseek(effects, offset, os.SEEK_SET)
    content = b""
    while chunk := os.read(effects, 1 << 20):
        content += chunk
    return [int(line) * 3 for line in content.split()], offset + len(content)


offset = 0
before = {}
for life in range(kills + 1):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            live()
            status = 0
        finally:
            os._exit(status)
    if life < kills:
        time.sleep(random_of_parent.uniform(0.0, 0.05 if life % 5 else 0.15))
        os.kill(child, signal.SIGKILL)
    _, how = os.waitpid(child, 0)
    executed, offset = executed_since(offset)
    after = stored()
    again = before.keys() & set(executed)
    assert not again, f"life {life} executed {sorted(again)[:5]} again"
    assert before.items() <= after.items(), f"life {life} changed a result"
    lost = set(executed) - after.keys()
    assert len(lost) <= UNCOMMITTED + workers, f"life {life} lost {len(lost)}"
    before = after
    if how == 0 and life < kills:
        # It was quicker than its death: begin anew.
        for path in Path(folder).glob("*"):
            if path.name != "effects":
                path.unlink()
        before = {}
assert os.waitstatus_to_exitcode(how) == 0, how
assert after == {n * 3: f'"{n}!"' for n in range(ITEMS)}, len(after)
assert check(database, is_finished=True) == []
