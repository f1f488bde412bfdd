"""A process that kills itself at one of its writes to a database."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any, Final

import apsw

from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

_NAME: Final = "killing"


class KillingVfs(apsw.VFS):
    """The system's files, at one of whose writes the process kills itself.

    Attributes:
        left: how many writes are left until then; ``None`` as long as none is counted.
    """

    def __init__(self, *, counts_syncs: bool) -> None:
        self.counts_syncs = counts_syncs
        self.left: int | None = None
        super().__init__(_NAME, "")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self, name, flags)

    def point(self) -> None:
        """Count a write; kill the process if it is the one."""
        if self.left is not None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    def use(self) -> None:
        """Make the engines of this process open their databases with it."""
        opening.Database = functools.partial(Database, vfs=_NAME)


class _File(apsw.VFSFile):
    def __init__(self, vfs: KillingVfs, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._vfs.point()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._vfs.counts_syncs:
            self._vfs.point()
        super().xSync(flags)
