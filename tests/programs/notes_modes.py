"""Notes the modes of all files beside a database.

It reads them whenever SQLite has opened a file and at each point of the write path.

It leads a life with all that makes files: a migration, steps, a purge, a dead engine's recovery, a
second engine, a close. Arguments: the database, and the umask.
"""

import functools
import os
import stat
import sys
import threading
from pathlib import Path

import apsw

import durably
from durably.plugins import LogPersistence
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

os.umask(int(sys.argv[2], 8))
folder = Path(sys.argv[1]).parent
seen = {}


def look(*_):
    for path in folder.iterdir():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue
        kind = path.name.partition("runs.db")[2]
        seen.setdefault(kind[:6] if kind.startswith(".owner") else kind, set()).add(mode)


class Vfs(apsw.VFS):
    def __init__(self):
        super().__init__("looking", "")

    def xOpen(self, name, flags):  # noqa: N802
        file = apsw.VFSFile("", name, flags)
        look()
        return file


vfs = Vfs()
opening.Database = functools.partial(Database, vfs="looking", fault_point=look)


@durably.job
def work(step, payload):
    for n in range(3):
        step.run(str(n), str, payload)
    step.log.info("done")
    if payload == "die" and step.attempt == 1:
        os._exit(0)


for payload in ("die", "live"):
    pid = os.fork()
    if not pid:
        app = durably.Durably(sys.argv[1], jobs=[work])
        app.use(LogPersistence())
        other = durably.Durably(sys.argv[1])
        app.jobs["work"].trigger(payload, concurrency_key="k", labels={"a": "b"})
        look()
        if payload == "die":
            app.start()
            threading.Event().wait()
        app.run_until_idle()
        app.purge_runs(older_than=0)
        look()
        other.close()
        app.close()
        look()
        print(*sorted(seen), "|", *sorted({oct(mode) for modes in seen.values() for mode in modes}))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
