"""Ids of runs and owners: ULIDs, that is the millisecond and eighty random bits as 26 characters.

Own code, because all that is needed of the format is on this page, and because an id is made for
every run: the packages that offer ULIDs take microseconds for each and cost a process that imports
them tens of milliseconds and megabytes, for what they read and convert beside.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from durably.clock import Clock

# Crockford's base32: no I, L, O or U, and in the order of the characters' codes, so that ids sort
# as the numbers do that they stand for.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_RANDOM_BYTES: Final = 10
# The last four characters, which are all that changes between most ids of one millisecond.
_TAIL_BITS: Final = 20
_HEAD_LENGTH: Final = 22


class Ids:
    """Makes ids that are unique everywhere and sort in the order in which they were made here.

    The first id of a millisecond has random bits from the kernel, the next ones count on from
    there. While the clock stands before the newest id, as when it was set back, they count on too.

    Usable from any thread, and by one process alone: a forked child makes its own, as it does an
    engine, lest both count on from the same id.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._millisecond = -1
        self._newest = 0
        self._head = -1
        self._head_text = ""

    def new(self) -> str:
        """Make an id."""
        # A clock before 1970 has no place in the format.
        millisecond = max(0, self._clock.now_us() // 1000)
        with self._lock:
            if millisecond > self._millisecond:
                random = int.from_bytes(os.urandom(_RANDOM_BYTES))
                # In this order: a Ctrl-C in between must leave no millisecond without its bits.
                self._newest = millisecond << 8 * _RANDOM_BYTES | random
                self._millisecond = millisecond
            else:
                self._newest += 1
            head = self._newest >> _TAIL_BITS
            if head != self._head:
                self._head_text = _base32(head, _HEAD_LENGTH)
                self._head = head
            tail = self._newest
            return (
                f"{self._head_text}{_ALPHABET[tail >> 15 & 31]}{_ALPHABET[tail >> 10 & 31]}"
                f"{_ALPHABET[tail >> 5 & 31]}{_ALPHABET[tail & 31]}"
            )


def _base32(number: int, length: int) -> str:
    """The lowest bits of *number*, five a character."""
    return "".join([_ALPHABET[number >> 5 * place & 31] for place in range(length - 1, -1, -1)])
