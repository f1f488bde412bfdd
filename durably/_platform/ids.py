"""Ids of runs and owners: ULIDs, that is a millisecond and eighty random bits as 26 characters.

Own code, because all that is needed of the format is on this page, and because an id is made for
every run: the packages that offer ULIDs take microseconds for each and cost a process that imports
them tens of milliseconds and megabytes, for what they read and convert beside.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from durably._platform.clock import Clock

# Crockford's base32: no I, L, O or U, and in the order of the characters' codes, so that ids sort
# as the numbers do that they stand for.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_LENGTH: Final = 26
_WHEN_LENGTH: Final = 10  # of the millisecond, 48 bits
_SERIAL_LENGTH: Final = 16
_SERIAL_BITS: Final = 5 * _SERIAL_LENGTH
# The end of the serial, which is all that differs between most ids of one millisecond.
_TAIL_LENGTH: Final = 4
_TAIL_BITS: Final = 5 * _TAIL_LENGTH


def is_id(text: str) -> bool:
    """Return whether *text* is what ``Ids`` makes: never a path, nor more than one name."""
    return len(text) == _LENGTH and not text.strip(_ALPHABET)


class Ids:
    """Makes ids that are unique everywhere and sort in the order in which they were made here.

    The random bits are drawn from the kernel once, and each id counts on from there. To ask the
    kernel for every id would give up the GIL each time, and wait for it while other threads burn
    Python. An id made after the clock was set back has the newest millisecond there was.

    Usable from any thread, and by one process alone: a forked child makes its own, as it does an
    engine, lest both count on from the same id.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._millisecond = -1
        self._when = ""
        # The highest bit is left to be counted into: a serial that began anew would not sort.
        self._serial = int.from_bytes(os.urandom(_SERIAL_BITS // 8)) >> 1
        self._head = -1
        self._head_text = ""

    def new(self) -> str:
        """Make an id."""
        # A clock before 1970 has no place in the format.
        millisecond = max(0, self._clock.now_us() // 1000)
        with self._lock:
            # Each text before the number that it is kept by: a Ctrl-C may land in between.
            if millisecond > self._millisecond:
                self._when = _base32(millisecond, _WHEN_LENGTH)
                self._millisecond = millisecond
            self._serial = serial = self._serial + 1
            head = serial >> _TAIL_BITS
            if head != self._head:
                self._head_text = _base32(head, _SERIAL_LENGTH - _TAIL_LENGTH)
                self._head = head
            # Written out: a loop over four characters would take as long as all else here.
            return (
                self._when
                + self._head_text
                + _ALPHABET[serial >> 15 & 31]
                + _ALPHABET[serial >> 10 & 31]
                + _ALPHABET[serial >> 5 & 31]
                + _ALPHABET[serial & 31]
            )


def _base32(number: int, length: int) -> str:
    """The lowest bits of *number*, five a character."""
    return "".join([_ALPHABET[number >> 5 * place & 31] for place in range(length - 1, -1, -1)])
