"""Is killed after it has copied the first page of a WAL checkpoint that it is asked to make."""

import os
import signal
import sys

import apsw


class Files(apsw.VFS):
    def __init__(self):
        super().__init__("cut", "")

    def xOpen(self, name, flags):  # noqa: N802
        return File("", name, flags)


class File(apsw.VFSFile):
    def __init__(self, base, name, flags):
        super().__init__(base, name, flags)
        self.is_main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)

    def xWrite(self, data, offset):  # noqa: N802
        super().xWrite(data, offset)
        if self.is_main:
            os.kill(os.getpid(), signal.SIGKILL)


files = Files()
db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE, vfs="cut")
db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
print("ready", flush=True)
sys.stdin.readline()
db.wal_checkpoint()
