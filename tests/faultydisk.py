"""A disk that fails on request: SQLite's own file layer, with errors put in at its calls.

Not a VFS of APSW's: an exception in one of those comes out of the statement even where SQLite, by
design, goes on without what has failed (its own checkpoints, a log that cannot be removed), so
that a commit would look like an error. Here SQLite gets the very code that a failing system call
gives it. SQLite tells where its structures are (``SQLITE_FCNTL_VFS_POINTER``); their layout is part
of its interface and does not change.
"""

from __future__ import annotations

import ctypes
import threading
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import apsw

_INT = ctypes.c_int
_INT64 = ctypes.c_int64
_POINTER = ctypes.c_void_p

_SLOTS_OF_VFS: Final = (
    *("xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose"),
    *("xRandomness", "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64"),
    *("xSetSystemCall", "xGetSystemCall", "xNextSystemCall"),
)
_SLOTS_OF_FILE: Final = (
    *("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock"),
    *("xCheckReservedLock", "xFileControl", "xSectorSize", "xDeviceCharacteristics"),
    *("xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap", "xFetch", "xUnfetch"),
)


class _Vfs(ctypes.Structure):
    """``sqlite3_vfs``, version 3."""

    _fields_ = [
        ("iVersion", _INT),
        ("szOsFile", _INT),
        ("mxPathname", _INT),
        ("pNext", _POINTER),
        ("zName", ctypes.c_char_p),
        ("pAppData", _POINTER),
        *((slot, _POINTER) for slot in _SLOTS_OF_VFS),
    ]


class _Methods(ctypes.Structure):
    """``sqlite3_io_methods``, version 3."""

    _fields_ = [
        ("iVersion", _INT),
        *((slot, _POINTER) for slot in _SLOTS_OF_FILE),
    ]


class _File(ctypes.Structure):
    """``sqlite3_file``."""

    _fields_ = [("pMethods", ctypes.POINTER(_Methods))]


# Per operation: where it is, and the arguments of the C function.
_OPERATIONS: Final[dict[str, tuple[str, Any]]] = {
    "read": ("xRead", ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT64)),
    "write": ("xWrite", ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT64)),
    "truncate": ("xTruncate", ctypes.CFUNCTYPE(_INT, _POINTER, _INT64)),
    "sync": ("xSync", ctypes.CFUNCTYPE(_INT, _POINTER, _INT)),
    "size": ("xFileSize", ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER)),
    "lock": ("xShmLock", ctypes.CFUNCTYPE(_INT, _POINTER, _INT, _INT, _INT)),
    "map": ("xShmMap", ctypes.CFUNCTYPE(_INT, _POINTER, _INT, _INT, _INT, _POINTER)),
}
_OPEN: Final = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
_DELETE: Final = ctypes.CFUNCTYPE(_INT, _POINTER, ctypes.c_char_p, _INT)

_UNLOCK: Final = 1  # SQLITE_SHM_UNLOCK

# What each operation fails with: what SQLite's own layer makes of EIO.
CODES: Final = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "lock": apsw.SQLITE_IOERR_SHMLOCK,
    "map": apsw.SQLITE_IOERR_SHMSIZE,
    "open": apsw.SQLITE_CANTOPEN,
    "delete": apsw.SQLITE_IOERR_DELETE,
}
# And of ENOSPC.
FULL_CODES: Final = CODES | {"write": apsw.SQLITE_FULL}

WRITING: Final = frozenset({"write", "truncate", "sync", "delete", "map"})
# A lock is one in the shared memory that is taken; giving one back cannot fail.
READING: Final = frozenset({"read", "size", "open", "lock"})


class FaultyDisk:
    """SQLite's files under a name of their own, with the operations numbered from 1.

    For tests on Linux. Leave the ``with`` block when every connection is closed.

    Attributes:
        name: of the VFS.
        before: called before each operation with its kind and its file; may block.
        count: how many operations of the wanted kinds there were.
        hit: those that were made to fail, as ``operation file``.
    """

    def __init__(self) -> None:
        self.name: Final = f"durably-faulty-{uuid.uuid4().hex}"
        self._lock = threading.Lock()  # guards all below
        self._kinds: Collection[str] = ()
        self._codes: dict[str, int] = {}
        self._first = self._left = 0
        self._is_paused = False
        self.count = 0
        self.hit: list[str] = []
        self.before: Callable[[str, str], None] | None = None
        # Whatever SQLite may call or look at must not be collected.
        self._kept: list[Any] = []
        self._methods: dict[int, _Methods] = {}
        self._names: dict[int, str] = {}

    def fail(self, kinds: Collection[str], first: int, times: int, codes: dict[str, int]) -> None:
        """Count operations of these kinds from now on; fail so many from the *first* on."""
        with self._lock:
            self._kinds, self._codes = kinds, codes
            self._first, self._left = first, times
            self.count = 0
            self.hit = []

    def repair(self) -> None:
        """Make everything succeed from now on."""
        with self._lock:
            self._left = 0

    def pause(self, *, is_paused: bool) -> None:
        """Neither count nor fail for a while: a test wants to look."""
        with self._lock:
            self._is_paused = is_paused

    def _code(self, operation: str, file: int | str) -> int:
        with self._lock:
            if self._is_paused or operation not in self._kinds:
                return 0
            self.count += 1
            if not self._first or self.count < self._first or not self._left:
                return 0
            self._left -= 1
            self.hit.append(f"{operation} {self._names.get(file, file)}")
            return self._codes[operation]

    # -- put in between ------------------------------------------------------------------

    def __enter__(self) -> Self:
        # Registers and unregisters a structure of that name; what it does is replaced.
        self._vfs = apsw.VFS(self.name, "unix")
        real, ours = _vfs_at("unix"), _vfs_at(self.name)
        self._ours = ours
        self._before = bytes(ours)
        for field, _ in _Vfs._fields_:
            if field not in ("pNext", "zName"):
                setattr(ours, field, getattr(real, field))
        ours.xOpen = self._pointer(_OPEN, self._opening(_OPEN(real.xOpen)))
        ours.xDelete = self._pointer(_DELETE, self._deleting(_DELETE(real.xDelete)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ctypes.memmove(ctypes.addressof(self._ours), self._before, len(self._before))
        self._vfs.unregister()

    def _pointer(self, prototype: Any, function: Callable[..., int]) -> int | None:
        callback = prototype(function)
        self._kept.append(callback)
        return ctypes.cast(callback, _POINTER).value

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def open_(vfs: int, name: int, file: int, flags: int, out: int) -> int:
            path = Path(ctypes.string_at(name).decode()).name if name else "temporary"
            code = self._code("open", path)
            structure = _File.from_address(file)
            if code:
                structure.pMethods = None
                return code
            status = real(vfs, name, file, flags, out)
            if status == apsw.SQLITE_OK:
                self._names[file] = path
                structure.pMethods = ctypes.pointer(self._replaced(structure.pMethods))
            return status

        return open_

    def _deleting(self, real: Callable[..., int]) -> Callable[..., int]:
        def delete(vfs: int, name: bytes, sync_folder: int) -> int:
            return self._code("delete", Path(name.decode()).name) or real(vfs, name, sync_folder)

        return delete

    def _replaced(self, real: Any) -> _Methods:
        address = ctypes.cast(real, _POINTER).value
        assert address is not None
        with self._lock:
            known = self._methods.get(address)
        if known is not None:
            return known
        ours = _Methods.from_buffer_copy(real.contents)
        for operation, (slot, prototype) in _OPERATIONS.items():
            function = getattr(ours, slot)
            if function:  # files that are never locked have no shared memory
                failing = self._failing(operation, prototype(function))
                setattr(ours, slot, self._pointer(prototype, failing))
        with self._lock:
            return self._methods.setdefault(address, ours)

    def _failing(self, operation: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(file: int, *args: Any) -> int:
            if operation == "lock" and args[-1] & _UNLOCK:
                return real(file, *args)
            if self.before is not None:
                self.before(operation, self._names.get(file, ""))
            return self._code(operation, file) or real(file, *args)

        return call


def _vfs_at(name: str) -> _Vfs:
    """The structure of the VFS of that name."""
    pointer = _POINTER()
    db = apsw.Connection(":memory:", vfs=name)
    try:
        assert db.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
    finally:
        db.close()
    assert pointer.value is not None
    found = _Vfs.from_address(pointer.value)
    assert found.zName == name.encode()
    assert found.iVersion >= 3
    return found
