"""What an engine asks of SQLite and of the disk, counted: statements, commits, syncs and pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import apsw
from calls import HANG_S

from durably.store.sqlite.database import Database

PAGE: Final = 4096


class CountedFile(apsw.VFSFile):
    def __init__(self, vfs: DiskVFS, filename: Any, flags: list[int]) -> None:
        super().__init__(vfs.base, filename, flags)
        self._disk = vfs
        self._is_wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.syncs += 1
        if self._disk.sync_fails:
            raise apsw.IOError
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.is_full:
            raise apsw.FullError
        # A frame of the WAL is written as its header and its page.
        if self._is_wal and len(data) == PAGE:
            self._disk.pages += 1
        elif self._is_wal:
            self._disk.headers += 1
        super().xWrite(data, offset)


class DiskVFS(apsw.VFS):
    """The system's files, counted, on a disk that can be full or fail."""

    def __init__(self, name: str) -> None:
        self.base = ""
        self.name = name
        self.syncs = 0
        self.pages = 0
        self.headers = 0
        self.is_full = False
        self.sync_fails = False
        super().__init__(name, self.base)

    def xOpen(self, name: Any, flags: list[int]) -> CountedFile:  # noqa: N802
        return CountedFile(self, name, flags)

    @classmethod
    @contextmanager
    def registered(cls, owner: str) -> Iterator[Self]:
        """A disk for the test of that name."""
        vfs = cls(f"durably-test-{abs(hash(owner))}")
        try:
            yield vfs
        finally:
            vfs.unregister()


class Counted:
    """What was done inside the ``with`` block: the first word of each statement, and the rest.

    ``writes`` are the statements of the connection that commits, ``beats`` those of the
    heartbeat's and ``reads`` those of the readers that were open at the beginning.
    """

    def __init__(self, store: Database, disk: DiskVFS) -> None:
        self._store = store
        self._disk = disk
        self.writes: list[str] = []
        self.beats: list[str] = []
        self.reads: list[str] = []
        self.commits = 0
        self.syncs = 0
        self.pages = 0

    def __enter__(self) -> Self:
        write, beat = self._store._writer._db, self._store._beats._db
        feed = self._store._versions.db
        self._traced = [db for db in self._store._connections.open if db is not feed]
        for db in self._traced:
            kind = self.writes if db is write else self.beats if db is beat else self.reads
            # The profile is of whole statements, without those of their triggers.
            _when_idle(db.trace_v2, apsw.SQLITE_TRACE_PROFILE, self._noting(kind))
        _when_idle(write.set_commit_hook, self._on_commit)
        self._syncs, self._pages = self._disk.syncs, self._disk.pages
        return self

    def _noting(self, kind: list[str]) -> Callable[[dict[str, Any]], None]:
        return lambda event: kind.append(event["sql"].split()[0])

    def _on_commit(self) -> bool:
        self.commits += 1
        return False

    def __exit__(self, *exc: object) -> None:
        self.syncs = self._disk.syncs - self._syncs
        self.pages = self._disk.pages - self._pages
        for db in self._traced:
            _when_idle(db.trace_v2, 0, None)
        _when_idle(self._store._writer._db.set_commit_hook, None)


def _when_idle(call: Callable[..., object], *args: object) -> None:
    """Call a method of a connection once no other thread is inside of it."""
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            call(*args)
        except apsw.ThreadingViolationError:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        else:
            return
