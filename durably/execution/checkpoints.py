"""The checkpoints that a run had when it was claimed, and which of them this execution has used."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from durably.store.api import Checkpoints
    from durably.store.rows import Checkpoint, RunKey

# So many names are kept as they are, a megabyte or so.
EXACT_NAMES: Final = 10_000
# The memory for those that were added before: a bit for each, found by its hash.
_FILTER_BITS: Final = 1 << 23


class Names:
    """Names that were added, in a bounded amount of memory.

    What was added is found. So may be, once there are more than ``EXACT_NAMES``, what was not:
    one name in a hundred where 100,000 were added. Names are added by one thread at a time.

    A set of all 100,000 would take 10 MiB instead of one. Asking the database for each new name
    instead would make a step take 165 µs instead of 86 at ``synchronous="normal"``.
    """

    def __init__(self) -> None:
        self._newest: set[str | int] = set()
        self._bits = bytearray()

    def add(self, name: str | int) -> None:
        """Add a name."""
        self._newest.add(name)
        if len(self._newest) > EXACT_NAMES:
            self._compress()

    def update(self, names: Iterable[str | int]) -> None:
        """Add several names."""
        self._newest.update(names)
        if len(self._newest) > EXACT_NAMES:
            self._compress()

    def __contains__(self, name: str | int) -> bool:
        # May be asked while another thread adds: first where names are, then where they go.
        if name in self._newest:
            return True
        bits = self._bits
        if not bits:
            return False
        bit = hash(name) % _FILTER_BITS
        return bits[bit >> 3] & (1 << (bit & 7)) != 0

    def _compress(self) -> None:
        bits = self._bits or bytearray(_FILTER_BITS >> 3)
        for name in self._newest:
            bit = hash(name) % _FILTER_BITS
            bits[bit >> 3] |= 1 << (bit & 7)
        self._bits = bits
        self._newest = set()


class StepCounts(NamedTuple):
    """How many steps an execution has completed, and how many returned from their checkpoints."""

    executed: int
    replayed: int


# Whether a step that was stored before has been used: not, from its checkpoint, executed again, or
# asked for without a result.
_NOT: Final = 0
_REPLAYED: Final = 1
_EXECUTED: Final = 2
_BEGUN: Final = 3


class CheckpointReader:
    """Reads the checkpoints that a run had when it was claimed, window by window.

    Keeps which of its steps this execution has used, in a byte for each. Usable from any thread;
    two must not ask for the same name at once.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        run_pk: RunKey,
        *,
        is_first_claim: bool,
        is_layered: bool = False,
    ) -> None:
        self._checkpoints = checkpoints
        self._run_pk = run_pk
        # Guards all below, but for a read of the window and the names.
        self._lock = threading.Lock()
        self._window: dict[str, Any] = {}
        # The same window, while a result in it is used just because it is there.
        self._ready: dict[str, Checkpoint] = self._window
        # Whether rows have what says if they are out of date.
        self._is_layered = is_layered
        self._next_index: int | None = None if is_first_claim else 0
        # Whether there are checkpoints that no later window has: a window was left before all of
        # it was used, or was never read.
        self._has_skipped = False
        # All that have been in a window, or were stored by this execution.
        self._names = Names()
        self.first_new_index = 0
        # The index of each map that is stored, by name.
        self.maps: dict[str, int] = {}
        # A byte for each index below that: 0, or how it was used.
        self._used = bytearray()
        self._executed = 0  # how many steps this execution has stored
        # How many returned from their checkpoints.
        self.replayed = 0
        if not is_first_claim:
            self.first_new_index = self._advance(0) + 1
            self._used = bytearray(self.first_new_index)

    def _advance(self, first_index: int) -> int:
        if self._window or first_index != self._next_index:
            self._has_skipped = True
        read = self._checkpoints.window_layered if self._is_layered else self._checkpoints.window
        window = read(self._run_pk, first_index)
        self._names.update(window.checkpoints)
        self._window = window.checkpoints
        if not self._is_layered:
            self._ready = self._window
        self._next_index = window.next_index
        self.maps |= window.maps
        return window.highest_index

    def take_result(self, name: str) -> Checkpoint | None:
        """Return the result of that name if it is in memory, once; ``None`` if it is not."""
        checkpoint = self._ready.get(name)
        # A failed or cancelled step stays: the one thread whose turn the step is needs its index.
        if checkpoint is None or checkpoint[1] is None:
            return None
        self._lock.acquire()  # a with statement takes twice as long
        try:
            # In one step, so that only one of two threads with one name gets it.
            if self._ready.pop(name, None) is None:
                return None  # another thread was faster
            self._used[checkpoint[0]] = _REPLAYED
            self.replayed += 1
        finally:
            self._lock.release()
        return checkpoint

    def layer(self) -> tuple[list[int], bool]:
        """Read from now on what says whether results are out of date.

        ``take_result`` returns none of them then. Return the indexes of the steps and maps that
        were used until now, and whether this execution has stored any.
        """
        with self._lock:
            left, end = self._window, self._next_index
            if left:
                first = min(checkpoint[0] for checkpoint in left.values())
                again = self._checkpoints.window_layered(self._run_pk, first)
                self._window = {
                    name: checkpoint
                    for name, checkpoint in again.checkpoints.items()
                    if name in left or (end is not None and checkpoint[0] >= end)
                }
                self._names.update(self._window)
                self._next_index = again.next_index
            self._ready = {}
            self._is_layered = True
            used = [index for index, how in enumerate(self._used) if how]
            return used, self._executed > 0

    def give_back(self, checkpoint: Checkpoint) -> None:
        """Mark a result as not used: it could not be decoded."""
        with self._lock:
            if checkpoint[0] < self.first_new_index:
                self._use(checkpoint[0], _NOT)

    def may_hold(self, name: str) -> bool:
        """Return whether something may be stored under *name*; reads nothing."""
        return name in self._names or self._next_index is not None or self._has_skipped

    def find(self, name: str) -> tuple[Any, bool]:
        """Return what is stored under *name*, and whether this execution has used it before.

        If nothing is stored, the second is whether it may have been deleted since.
        """
        with self._lock:
            checkpoint = self._window.pop(name, None)
            if checkpoint is not None:
                if checkpoint[1] is not None:
                    self._note_use(checkpoint[0])
                return checkpoint, False
            # Not in this window: read the one name, and a window from there. A job that uses its
            # steps in their old order does so once a window; another one, once a name.
            read = self._checkpoints.find_layered if self._is_layered else self._checkpoints.find
            found: Any = read(self._run_pk, name)
            if found is None:
                return None, name in self._names
            index, output = found[:2]
            is_used = output is not None and self._is_used(index)
            if not is_used and self._next_index is not None and index >= self._next_index:
                self._advance(index)
                self._window.pop(name, None)
            if output is not None:
                self._note_use(index)
            return found, is_used

    def _is_used(self, index: int) -> bool:
        return index >= self.first_new_index or bool(self._used[index])

    def _note_use(self, index: int) -> None:
        if index < self.first_new_index and not self._used[index]:
            self._use(index, _REPLAYED)

    def _use(self, index: int, how: int) -> None:
        self.replayed += (how == _REPLAYED) - (self._used[index] == _REPLAYED)
        self._used[index] = how

    def note_stored(self, name: str, index: int) -> None:
        """Note that this execution has stored the result of a step."""
        with self._lock:
            self._names.add(name)
            self._executed += 1
            if index < self.first_new_index:
                self._use(index, _EXECUTED)

    def note_begun(self, index: int) -> None:
        """Note that this execution has begun a map."""
        if index < self.first_new_index and not self._used[index]:
            self._used[index] = _BEGUN

    def note_map(self, index: int, *, is_executed: bool) -> None:
        """Note that this execution has completed a map, or found all of it stored."""
        with self._lock:
            self._executed += is_executed
            if index < self.first_new_index:
                self._use(index, _EXECUTED if is_executed else _REPLAYED)

    def count(self) -> StepCounts:
        """Return how many steps were executed, and how many were not."""
        return StepCounts(self._executed, self.replayed)

    def unused(self, most: int) -> list[str]:
        """Return the names of completed steps that this execution has not used, *most* at most."""
        if not self._used.count(_NOT):
            return []
        maps = set(self.maps.values())
        used = tuple(enumerate(self._used))
        unused = [index for index, how in used if not how]
        executed = [index for index, how in used if how == _EXECUTED and index not in maps]
        return self._checkpoints.unused_steps(self._run_pk, unused, executed, most)
