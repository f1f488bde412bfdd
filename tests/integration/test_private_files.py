"""The database and everything beside it is readable for its owner alone, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes of files")

# Looks at every file of the folder whenever SQLite has opened one and at each point of the write
# path, in a life with all that makes files: a migration, steps, a purge, a dead engine's
# recovery, a second engine, a close.
LIFE = """
import functools, os, stat, sys, threading
import apsw
import durably, durably.engine
from durably.plugins import LogPersistence
from durably.store.sqlite.database import Database
os.umask(int(sys.argv[2], 8))
folder = os.path.dirname(sys.argv[1])
seen = {}
def look(*_):
    for name in os.listdir(folder):
        try:
            mode = stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode)
        except FileNotFoundError:
            continue
        kind = name.partition("runs.db")[2]
        seen.setdefault(kind[:6] if kind.startswith(".owner") else kind, set()).add(mode)
class Vfs(apsw.VFS):
    def __init__(self):
        super().__init__("looking", "")
    def xOpen(self, name, flags):
        file = apsw.VFSFile("", name, flags)
        look()
        return file
vfs = Vfs()
durably.engine.Database = functools.partial(Database, vfs="looking", fault_point=look)
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
"""


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_every_file_is_private_at_every_moment(tmp_path: Path, umask: str) -> None:
    """The database, its journal, log and shared memory, the writers' mutex and the owners' locks
    are made with mode 0600, from the moment at which they are there.
    """
    done = subprocess.run(
        [sys.executable, "-c", LIFE, tmp_path / "runs.db", umask],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    kinds, _, modes = done.stdout.strip().splitlines()[-1].partition(" | ")
    assert {"-wal", "-shm", ".owner", ".writer"} <= set(kinds.split())
    assert modes == "0o600"
    left = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert left == {"runs.db": 0o600, "runs.db.writer": 0o600}
