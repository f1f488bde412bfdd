"""Ids of runs and owners: ULIDs, that is a millisecond and eighty random bits as 26 characters.

This is durably's own code because an id is made for every run and the format is short. The packages
for ULIDs take microseconds for each id, and importing them takes tens of milliseconds and
megabytes, for features that durably does not need.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from durably._platform.clock import Clock

# Crockford's base32: no I, L, O or U, and in the order of the characters' codes, so that ids sort
# as their numbers do.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_LENGTH: Final = 26
_WHEN_LENGTH: Final = 10  # of the millisecond, 48 bits
_SERIAL_LENGTH: Final = 16
_SERIAL_BITS: Final = 5 * _SERIAL_LENGTH
# The end of the serial: most ids of one millisecond differ only there.
_TAIL_LENGTH: Final = 4
_TAIL_BITS: Final = 5 * _TAIL_LENGTH


def child_id(parent_id: str, name: str) -> str:
    """Return the id of the run that a step of that name triggers: the same one each time."""
    import hashlib  # noqa: PLC0415 - where first needed

    hashed = hashlib.sha256(f"{parent_id}\0{name}".encode()).digest()
    number = int.from_bytes(hashed[: _SERIAL_BITS // 8])
    return f"{parent_id[:_WHEN_LENGTH]:0<{_WHEN_LENGTH}}{_base32(number, _SERIAL_LENGTH)}"


def is_id(text: str) -> bool:
    """Return whether *text* has the form of an id; such text is never a path."""
    return len(text) == _LENGTH and not text.strip(_ALPHABET)


class Ids:
    """Make ids that are unique everywhere and sort in the order in which this object made them.

    The random bits are read from the kernel once, and each id counts up from there. Reading them
    for every id would give up the GIL each time, and wait for it while other threads execute
    Python. An id that is made after the clock was set back has the latest millisecond so far.

    Usable from any thread, by one process: a forked child makes its own object, as it opens its own
    engine, because both would count up from the same id.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._millisecond = -1
        self._when = ""
        # The highest bit stays free for counting up: a serial that wraps around would not sort.
        self._serial = int.from_bytes(os.urandom(_SERIAL_BITS // 8)) >> 1
        self._head = -1
        self._head_text = ""

    def new(self) -> str:
        """Return a new id."""
        # The format has no milliseconds before 1970.
        millisecond = max(0, self._clock.now_us() // 1000)
        with self._lock:
            # Each text is stored before its number: a Ctrl-C may arrive in between.
            if millisecond > self._millisecond:
                self._when = _base32(millisecond, _WHEN_LENGTH)
                self._millisecond = millisecond
            self._serial = serial = self._serial + 1
            head = serial >> _TAIL_BITS
            if head != self._head:
                self._head_text = _base32(head, _SERIAL_LENGTH - _TAIL_LENGTH)
                self._head = head
            # Written out: a loop over four characters would take as long as everything else here.
            return (
                self._when
                + self._head_text
                + _ALPHABET[serial >> 15 & 31]
                + _ALPHABET[serial >> 10 & 31]
                + _ALPHABET[serial >> 5 & 31]
                + _ALPHABET[serial & 31]
            )


def _base32(number: int, length: int) -> str:
    """Return the lowest bits of *number*, five in each character."""
    return "".join([_ALPHABET[number >> 5 * place & 31] for place in range(length - 1, -1, -1)])
