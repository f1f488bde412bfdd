"""The steps that an engine is inside of, in the file of its owner lock.

What a process was doing when it died is not in the database: a step begins without a commit. So
its name is written to the file by which other engines see that this one lives, where the kernel
keeps it when the process ends, and the engine that recovers the runs reads it. A loss of power may
lose it.

The file has a slot for each step that is in progress at once. A slot is never emptied when its
step has a result, because the database knows that; it is used again.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from durably.store.calls import OpenCalls
from durably.store.rows import RunKey

# More than the header and the longest name of a step, 500 characters of up to four bytes.
SLOT: Final = 2304
# run, fence, the order of all that were begun, how often its function was called, how many steps
# came from checkpoints before, and the length of the name. The slot before the first one is left
# empty: Windows locks its first byte.
_HEADER: Final = struct.Struct("<qqqqqH")
_pack: Final = _HEADER.pack
_EMPTY: Final = bytes(_HEADER.size)
_LONGEST_NAME: Final = SLOT - _HEADER.size
# So many are mapped into memory, of a file system that changes a page of a file where it is: there
# it cannot fail once the page has been written. Another one, which writes each change elsewhere,
# may have no room for it, and would end the process.
_MAPPED: Final = 17 * SLOT
_IN_PLACE: Final = frozenset({"ext3", "ext4", "xfs", "tmpfs"})
# A file with more is none that an engine has written.
_MOST_SLOTS: Final = 10_000

_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


if sys.platform == "win32":

    def _write_at(fd: int, data: bytes, offset: int) -> None:
        """Write nothing: Windows has no write at a place."""

else:
    _write_at: Final = os.pwrite


class Begun(NamedTuple):
    """A step that was begun, in an execution of a run."""

    run_pk: RunKey
    fence: int
    order: int
    calls: OpenCalls


class BegunSteps:
    """The slots of one engine. Usable from any thread.

    Each execution of a run keeps a reference until it is over. Only then is the file closed, so
    that no thread writes to another file that has got the number of its descriptor. It is opened
    apart from the lock, which must not outlive its release.

    Args:
        path: of the file.
        file_system: the type of the file system that it is on, if the system reports it.
    """

    def __init__(self, path: str, file_system: str | None) -> None:
        self._fd = -1
        self._map: mmap.mmap | None = None
        if sys.platform != "win32":
            # Without a descriptor left, nothing is noted.
            with suppress(OSError):
                self._fd = os.open(path, os.O_RDWR | _FLAGS)
                if file_system in _IN_PLACE:
                    os.pwrite(self._fd, bytes(_MAPPED), 0)
                    self._map = mmap.mmap(self._fd, _MAPPED)
        # An operation on each of these is one call, which takes no lock.
        self._free: deque[int] = deque()
        # Frees the slot of a step that has a result, or whose execution is over.
        self.end: Final[Callable[[int], None]] = self._free.append
        self._slots = itertools.count(1)
        self._order = itertools.count(1)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def begin(self, run_pk: RunKey, fence: int, name: str, calls: int, reused: int) -> int:
        """Note that a step begins; return its slot, for ``end`` or ``forget``."""
        # Each step pays for this: it makes few calls.
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._slots)
        text = name.encode()
        header = _pack(run_pk, fence, next(self._order), calls, reused, len(text))
        self._write(header + text, slot * SLOT)
        return slot

    def forget(self, slot: int) -> None:
        """Empty and free the slot of a step of which the database knows that it has failed."""
        self._write(_EMPTY, slot * SLOT)
        self._free.append(slot)

    def _write(self, data: bytes, start: int) -> None:
        if self._map is not None and start < _MAPPED:
            # Without a call into the system, which would give up the GIL.
            self._map[start : start + len(data)] = data
            return
        # A full disk costs the note, not the step.
        with suppress(OSError):
            _write_at(self._fd, data, start)


def read(path: str) -> list[Begun]:
    """Return what an engine that has died or hung had begun last, the newest step last."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)
    except OSError:
        return []
    with open(fd, "rb") as file:
        try:
            data = file.read(_MOST_SLOTS * SLOT)
        except OSError:
            return []
    return sorted(_slots(data), key=lambda each: each.order)


def _slots(data: bytes) -> Iterator[Begun]:
    for start in range(SLOT, len(data) - _HEADER.size + 1, SLOT):
        run_pk, fence, order, calls, reused, length = _HEADER.unpack_from(data, start)
        if not 0 < length <= _LONGEST_NAME or calls < 0 or reused < 0:
            continue
        text = data[start + _HEADER.size : start + _HEADER.size + length]
        # The process may have died in the middle of a name.
        with suppress(UnicodeDecodeError):
            yield Begun(RunKey(run_pk), fence, order, OpenCalls(text.decode(), calls, "[]", reused))
