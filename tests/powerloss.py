"""What a disk holds after the power went: every write and sync of SQLite, recorded, and replayed.

A ``Recorder`` is a VFS that passes everything on and keeps an ordered log of what reaches the disk
and of what the workload was told. A ``Disk`` is fed that log up to some entry, knows which of it
was synced, and makes the files as they may be found when the power goes at that moment.

What is modelled strictly: a write is safe from the moment when a sync of its file has returned that
began after it; a name that was made or removed is safe once its folder was synced, which SQLite
does with the first sync of a new log or journal; of a sync that fails nothing is ever safe. A write
damages nothing outside its own range, which is what SQLite takes for granted
(``POWERSAFE_OVERWRITE``). The shared memory is never on the disk.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

# What a disk writes whole or not at all.
SECTOR: Final = 512

_FRAME_HEADER: Final = 24


class Write(NamedTuple):
    """Bytes that were written to a file."""

    inode: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file that was cut or stretched."""

    inode: int
    size: int


class Sync(NamedTuple):
    """A sync that has returned, or failed; it covers what was recorded before entry ``begun``."""

    inode: int
    begun: int
    is_of_folder: bool
    has_failed: bool


class Create(NamedTuple):
    """A name that was made, of a file or a folder."""

    name: str
    inode: int
    is_folder: bool = False


class Delete(NamedTuple):
    """A name that was removed."""

    name: str
    is_synced: bool


class Rename(NamedTuple):
    """A name that was changed, in one step."""

    old: str
    new: str


class SyncFolder(NamedTuple):
    """A sync of a folder, by its name in that of the database, "" for that one."""

    folder: str


class Mark(NamedTuple):
    """Something the workload did or had acknowledged, at its place among the writes."""

    verb: str
    subject: Any
    value: Any = None


Entry = Write | Truncate | Sync | Create | Delete | Rename | SyncFolder | Mark


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._recorder = recorder
        self._inode = 0
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        self._has_written = False
        # As in SQLite's own: the folder is synced with the first sync of a new log or journal.
        self._syncs_folder = bool(
            flags[0] & apsw.SQLITE_OPEN_CREATE
            and flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        )
        if name is not None:
            filename = name.filename() if isinstance(name, apsw.URIFilename) else name
            self._inode = recorder.inode_of(Path(filename).name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._has_written = True
        self._recorder.record(Write(self._inode, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._recorder.record(Truncate(self._inode, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        recorder = self._recorder
        begun = len(recorder.log)
        is_of_own_commit = self._is_log and self._has_written
        self._has_written = False
        if is_of_own_commit and recorder.sync_fails():
            # What Linux does: the error is told once, and the pages then pass for clean.
            recorder.record(Sync(self._inode, begun, self._syncs_folder, has_failed=True))
            error = apsw.IOError("the sync was made to fail")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        # The real one may be left out: nobody cuts the power of this machine.
        recorder.record(Sync(self._inode, begun, self._syncs_folder, has_failed=False))
        self._syncs_folder = False


class Recorder(apsw.VFS):
    """Records what is done to the database files of one folder. Usable from any thread.

    Attributes:
        log: what has happened, in order.
        sync_fails: asked at each sync of a commit whether it is to fail. (Of SQLite's own
            checkpoints none does: it goes on without them, but APSW would raise the error.)
    """

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.log: Final[list[Entry]] = []
        self.sync_fails: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()  # guards the two below and the order of the log
        self._inodes: dict[str, int] = {}
        self._next_inode = 1
        super().__init__(name, "")

    def repair(self) -> None:
        """No sync fails any more."""
        self.sync_fails = lambda: False

    def record(self, entry: Entry) -> None:
        """Append to the log."""
        with self._lock:
            self.log.append(entry)

    def mark(self, verb: str, subject: Any, value: Any = None) -> None:
        """Append what the workload is about to do, or had acknowledged."""
        self.record(Mark(verb, subject, value))

    def inode_of(self, name: str) -> int:
        """The number of the file of that name, which exists; reported as created if it is new."""
        with self._lock:
            if name not in self._inodes:
                self._inodes[name] = self._next_inode
                self.log.append(Create(name, self._next_inode))
                self._next_inode += 1
            return self._inodes[name]

    def create(self, name: str, *, is_folder: bool = False) -> int:
        """Tell that a file or folder was made under that name; return its number."""
        with self._lock:
            inode = self._inodes[name] = self._next_inode
            self.log.append(Create(name, inode, is_folder))
            self._next_inode += 1
            return inode

    def rename(self, old: str, new: str) -> None:
        """Tell that a name was changed."""
        with self._lock:
            self._inodes[new] = self._inodes.pop(old)
            self.log.append(Rename(old, new))

    def delete(self, name: str) -> None:
        """Tell that a name was removed, which is not synced."""
        with self._lock:
            self._inodes.pop(name, None)
            self.log.append(Delete(name, is_synced=False))

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self, name, flags)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802
        super().xDelete(name, sync_folder)
        base = Path(name).name
        with self._lock:
            self._inodes.pop(base, None)
            self.log.append(Delete(base, bool(sync_folder)))


# -- how much of what was not synced is found again -------------------------------------------

_Lost = Callable[[random.Random, list[Write | Truncate]], list[Write | Truncate]]


def _everything(rng: random.Random, pending: list[Write | Truncate]) -> list[Write | Truncate]:
    """All of it is lost."""
    return []


def _some(rng: random.Random, pending: list[Write | Truncate]) -> list[Write | Truncate]:
    """Each write is lost or not, whatever was written after it."""
    return [entry for entry in pending if rng.random() < 0.5]


def _torn(rng: random.Random, pending: list[Write | Truncate]) -> list[Write | Truncate]:
    """Each sector of each write is lost or not, or is garbage."""
    kept: list[Write | Truncate] = []
    for entry in pending:
        if isinstance(entry, Truncate):
            if rng.random() < 0.5:
                kept.append(entry)
            continue
        for sector in _sectors(entry):
            luck = rng.random()
            if luck < 0.5:
                kept.append(sector)
            elif luck < 0.6:
                kept.append(sector._replace(data=rng.randbytes(len(sector.data))))
    return kept


def _cut(rng: random.Random, pending: list[Write | Truncate]) -> list[Write | Truncate]:
    """Those from some write on are lost, and the last one that is not is torn in a sector."""
    if not pending:
        return []
    *kept, last = pending[: rng.randrange(len(pending)) + 1]
    if isinstance(last, Write):
        sectors = _sectors(last)
        whole = rng.randrange(len(sectors))
        torn = sectors[whole]
        kept += sectors[:whole]
        kept.append(torn._replace(data=torn.data[: rng.randrange(len(torn.data)) + 1]))
    return kept


def _sectors(write: Write) -> list[Write]:
    """The parts of a write that lie in one sector each."""
    parts = []
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        parts.append(
            Write(write.inode, at, write.data[at - write.offset : stop - write.offset]),
        )
        at = stop
    return parts


# A rule "nothing" is understood as well: none of it is lost, as when a process is killed.
RULES: Final[dict[str, _Lost]] = {
    "everything": _everything,
    "some": _some,
    "torn": _torn,
    "cut": _cut,
}


# -- the disk ---------------------------------------------------------------------------------


class _Inode:
    def __init__(self) -> None:
        self.cached = bytearray()  # what a read finds for as long as the power is on
        self.safe = bytearray()
        # With their places in the log: a sync covers those before its beginning.
        self.pending: list[tuple[int, Write | Truncate]] = []


class Disk:
    """The files after the first entries of a log, and what of them is synced.

    Args:
        log: of a ``Recorder``.
        believes_syncs: whether a sync makes anything safe; false for a disk that lies.
    """

    def __init__(self, log: list[Entry], *, believes_syncs: bool = True) -> None:
        self._log = log
        self._believes_syncs = believes_syncs
        self.at = 0
        self._inodes: dict[int, _Inode] = {}
        self._safe_names: dict[str, int] = {}
        self._pending_names: list[Create | Delete | Rename] = []
        # Where the log of SQLite has a commit that is wholly written, and wholly safe.
        self._half_commits: dict[int, int] = {}
        self._unsafe_commits: dict[int, list[int]] = {}
        self._lost_inodes: set[int] = set()
        self._folders = {e.name for e in log if isinstance(e, Create) and e.is_folder}
        self.commits = 0
        self.safe_commits = 0

    @property
    def is_inside_commit(self) -> bool:
        """Return whether the last frame of a commit has its header and not its page."""
        return bool(self._half_commits)

    def advance(self, to: int) -> None:
        """Make the entries before *to* happen; never backwards."""
        while self.at < to:
            self._happen(self.at, self._log[self.at])
            self.at += 1

    def _happen(self, place: int, entry: Entry) -> None:
        if isinstance(entry, Write | Truncate):
            inode = self._inode(entry.inode)
            inode.pending.append((place, entry))
            _apply(inode.cached, entry)
            if isinstance(entry, Write):
                self._look_for_commit(entry)
        elif isinstance(entry, Sync):
            self._sync(entry)
        elif isinstance(entry, SyncFolder):
            if self._believes_syncs:
                self._sync_names(entry.folder)
        elif isinstance(entry, Create | Delete | Rename):
            self._pending_names.append(entry)
            if isinstance(entry, Delete) and entry.is_synced:
                self._sync_names()

    def _look_for_commit(self, write: Write) -> None:
        """A frame of SQLite's log with the size of the database in its header ends a commit."""
        expected = self._half_commits.pop(write.inode, None)
        if expected == write.offset:
            self.commits += 1
            self._unsafe_commits.setdefault(write.inode, []).append(self.at)
        if len(write.data) == _FRAME_HEADER and struct.unpack_from(">I", write.data, 4)[0]:
            self._half_commits[write.inode] = write.offset + _FRAME_HEADER

    def _sync(self, sync: Sync) -> None:
        if not self._believes_syncs:
            return
        inode = self._inode(sync.inode)
        covered = [entry for place, entry in inode.pending if place < sync.begun]
        inode.pending = [(place, entry) for place, entry in inode.pending if place >= sync.begun]
        if sync.has_failed:
            # Gone for good: no later sync will write them, though reads still find them.
            self._lost_inodes.add(sync.inode)
            return
        for entry in covered:
            _apply(inode.safe, entry)
        if sync.is_of_folder:
            self._sync_names()
        if sync.inode not in self._lost_inodes:
            commits = self._unsafe_commits.pop(sync.inode, [])
            self.safe_commits += sum(place < sync.begun for place in commits)
            left = [place for place in commits if place >= sync.begun]
            if left:
                self._unsafe_commits[sync.inode] = left

    def _sync_names(self, folder: str = "") -> None:
        left = []
        for entry in self._pending_names:
            if _folder_of(entry) == folder:
                _rename(self._safe_names, entry)
            else:
                left.append(entry)
        self._pending_names = left

    def _inode(self, number: int) -> _Inode:
        return self._inodes.setdefault(number, _Inode())

    def after_power_loss(self, lost: str, rng: random.Random) -> dict[str, bytes]:
        """The files, by name, as they may be found if the power goes now.

        Args:
            lost: the rule, one of ``RULES`` or "nothing", for what was not synced.
        """
        rule = RULES.get(lost, _everything)
        names = dict(self._safe_names)
        # A file system's journal keeps the order of what is done to names.
        kept = {"nothing": len(self._pending_names), "everything": 0}
        for entry in self._pending_names[
            : kept.get(lost, rng.randrange(len(self._pending_names) + 1))
        ]:
            _rename(names, entry)
        files = {}
        for name, number in names.items():
            folder = name.rpartition("/")[0]
            if name in self._folders or (folder and folder not in names):
                continue
            inode = self._inode(number)
            if lost == "nothing":
                files[name] = bytes(inode.cached)
                continue
            content = bytearray(inode.safe)
            for entry in rule(rng, [entry for _, entry in inode.pending]):
                _apply(content, entry)
            files[name] = bytes(content)
        return files


def _apply(content: bytearray, entry: Write | Truncate) -> None:
    if isinstance(entry, Truncate):
        if entry.size < len(content):
            del content[entry.size :]
        else:
            content.extend(bytes(entry.size - len(content)))
        return
    if len(content) < entry.offset:
        content.extend(bytes(entry.offset - len(content)))
    content[entry.offset : entry.offset + len(entry.data)] = entry.data


def _folder_of(entry: Create | Delete | Rename) -> str:
    return (entry.new if isinstance(entry, Rename) else entry.name).rpartition("/")[0]


def _rename(names: dict[str, int], entry: Create | Delete | Rename) -> None:
    if isinstance(entry, Create):
        names[entry.name] = entry.inode
    elif isinstance(entry, Rename):
        if entry.old in names:
            names[entry.new] = names.pop(entry.old)
    else:
        names.pop(entry.name, None)


def put(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a disk into an empty folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
        (folder / name).write_bytes(content)
