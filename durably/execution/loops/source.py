"""Read the items of a map, in the thread that drives it, and find which of them are stored."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from durably._platform.clock import Clock
from durably._platform.hashes import hash_of_text
from durably._platform.safe_repr import type_name
from durably._platform.signals import let_through
from durably.codec.json_text import dump
from durably.codec.plain import plain
from durably.errors import ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.inputs import text_of
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.stored_items import StoredItems, same_key
from durably.execution.loops.tasks import Reused, Task
from durably.jobs.names import check_text

if TYPE_CHECKING:
    from durably.store.item_rows import ItemRow, Key

# A slow iterator is not read ahead: the item that is there begins.
_PATIENCE_S: Final = 0.001
# So many items that may be stored are read at once, if they are in memory.
_MANY: Final = 256
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_LARGEST_KEY: Final = 2**63
# Hashes of items from here on are of the wide kind.
_WIDE: Final = 2**32
# The keys of a list that is not longer are called for and checked before its first item begins.
_CHECKED_AT_ONCE: Final = 10_000


class Source:
    """The items of a map. Used by one thread.

    Args:
        hold: gives an item that is not tried again the error that is stored of it.
        is_out_of_date: returns of a stored result and of its item now whether it is; ``None`` if
            all results are used.

    Attributes:
        failure: what the iterable or ``key`` has raised.
        changed: at how many positions with a stored result there are other items than before.
    """

    def __init__(
        self,
        options: LoopOptions,
        stored: StoredItems,
        run: CurrentRun,
        clock: Clock,
        hold: Callable[[Task, ItemRow, str], None],
        is_out_of_date: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        self._hold = hold
        self._is_out_of_date = is_out_of_date
        self._options = options
        self._stored = stored
        self._is_callers_signal = run.is_callers_signal
        self._clock = clock
        self._iterator: Iterator[Any] | None = None
        self._is_keyed = options.key is not None
        self._sum_of_keys = 0
        self._position = 0
        self.is_exhausted = False
        self.failure: BaseException | None = None
        self.changed = 0
        # Reading more of these ahead holds nothing in memory that was not there before.
        self._is_in_memory = isinstance(options.items, list | tuple | range)

    @property
    def read(self) -> int:
        """Return how many items were read."""
        return self._position

    @property
    def hash_of_read(self) -> int:
        """Return a hash of which items were read: of how many, and of their keys in any order."""
        return hash_of_text(f"{self._position} {self._sum_of_keys}")

    def take(self, most: int, reused: Reused) -> list[Task]:
        """Read the next items, up to *most*; more if those that come next are stored.

        Those that have a result are added to *reused*. Return the others; one that has failed
        before has its attempts. If neither gets any, there are no more.

        What the iterable or ``key`` has raised is the ``failure``, and then there are no more.

        Raises:
            BaseException: a signal in the caller's thread has raised it.
        """
        if self._is_in_memory and self._position <= self._stored.highest:
            most = max(most, _MANY)
        rows: list[ItemRow] = []
        if not self._is_keyed and self._is_out_of_date is None:
            rows = self._stored.results_from(self._position, _MANY)
        pulled: list[Any] = []
        try:
            let_through(self._pull, max(most, len(rows)), pulled)
        except BaseException as exc:
            self.is_exhausted = True
            if self._is_callers_signal(exc):
                raise
            self.failure = exc
        tasks: list[Task] = []
        try:
            keys = self._keys_of(pulled)
            self._reuse(pulled, keys, rows, reused)
            for item, key in zip(pulled[len(rows) :], keys[len(rows) :], strict=True):
                self._sort(item, key, tasks, reused)
        except ValidationError as exc:
            self.is_exhausted = True
            self.failure = exc
            return []
        return tasks

    def _keys_of(self, pulled: list[Any]) -> Sequence[Key]:
        """Return the keys of the next items, checked; of pairs, leave the items in *pulled*."""
        position = self._position
        if not self._is_keyed:
            return range(position, position + len(pulled))
        what = self._options.what
        keys = [_checked_key(key, n, what) for n, (_, key) in enumerate(pulled, position)]
        pulled[:] = [item for item, _ in pulled]
        if self._is_out_of_date is not None:
            self._sum_of_keys += sum(zlib.crc32(f"{key!r}".encode()) for key in keys)
        return keys

    def _reuse(
        self, items: list[Any], keys: Sequence[Key], rows: list[ItemRow], reused: Reused
    ) -> None:
        """Add the first of the items to *reused*, as far as the next stored results are theirs."""
        if self._is_out_of_date is not None:
            return  # each is looked at
        if self._is_keyed:
            rows += self._stored.results_of(keys, self._position)
        else:
            del rows[len(items) :]
            self._count_changes(items, rows)
        reused.add_run(self._position, keys[: len(rows)], rows)
        self._position += len(rows)

    def _count_changes(self, items: list[Any], rows: list[ItemRow]) -> None:
        """Compare the items of a map without keys with those for which there are results."""
        if self._options.on_change == "ignore":
            return
        for item, row in zip(items, rows, strict=False):
            before = row[5]
            if before is not None:
                now = hash_of(item)
                if now != before:
                    now = hash_like(before, item)
                    self.changed += now != before and now is not None

    def _pull(self, most: int, pulled: list[Any]) -> None:
        """Read items into *pulled*. It is code of the user's, but for the list."""
        if self._iterator is None:
            self._iterator = self._begin()
        if self._is_in_memory:
            pulled += itertools.islice(self._iterator, most)
            self.is_exhausted = len(pulled) < most
            return
        ends_s = self._clock.monotonic() + _PATIENCE_S
        for each in self._iterator:
            pulled.append(each)
            if len(pulled) >= most or self._clock.monotonic() > ends_s:
                return
        self.is_exhausted = True

    def _begin(self) -> Iterator[Any]:
        """Return an iterator over the items, with a key over pairs of both."""
        items, key_of = self._options.items, self._options.key
        if key_of is None:
            return iter(items)
        if isinstance(items, list | tuple) and len(items) <= _CHECKED_AT_ONCE:
            # Before any item is executed: what is wrong with a later key is found now.
            items = tuple(items)
            keys = [key_of(item) for item in items]
            _check_all(keys, self._options.what)
            return zip(items, keys, strict=True)
        return ((item, key_of(item)) for item in items)

    def _sort(self, item: Any, key: Key, tasks: list[Task], reused: Reused) -> None:
        """Add an item to *tasks* or, if it has a result, to *reused*."""
        position, stored = self._position, self._stored
        row = stored.find(key, position) if self._is_keyed else stored.find_at(position)
        self._position = position + 1
        outdated = self._is_out_of_date
        has_result = row is not None and row[2] is not None
        is_stale = has_result and outdated is not None and outdated(row, item)
        if row is not None and has_result and not is_stale:
            reused.add_run(position, (key,), [row])
            if not self._is_keyed and outdated is None:
                self._count_changes([item], [row])
            return
        task = Task(position, key, item)
        if outdated is not None:
            task.is_replacing, task.hash = is_stale, wide_hash_of(item)
        elif not self._is_keyed:
            task.hash = hash_of(item)
        if row is None:
            task.index = stored.place(key, position)
        else:
            task.index, task.attempts = row[0], row[4]
            error = stored.held.get(row[0])
            if error is not None:
                self._hold(task, row, error)
        tasks.append(task)


def _check_all(keys: list[Any], what: str) -> None:
    positions: dict[Key, int] = {}
    for position, key in enumerate(keys):
        first = positions.setdefault(_checked_key(key, position, what), position)
        if first != position:
            raise same_key(what, key, first, position)


def _checked_key(key: Any, position: int, what: str) -> Key:
    if type(key) is int:
        pass
    elif isinstance(key, str):
        text = str.__str__(key)
        if not text or not text.isascii() or "\0" in text:
            check_text(text, f"{what}: the key of the item at position {position}")
        return text
    elif isinstance(key, bool) or not isinstance(key, int):
        is_number = hasattr(type(key), "__index__") and not isinstance(key, bool)
        advice = "; convert it with int()" if is_number else ""
        raise ValidationError(
            f"{what}: key= must return a str or an int, not {type_name(key)}, for the item at "
            f"position {position}{advice}"
        )
    if not -_LARGEST_KEY <= key < _LARGEST_KEY:
        raise ValidationError(
            f"{what}: the key of the item at position {position} has more than 64 bits; "
            "convert it with str()"
        )
    return int(key)


def wide_hash_of(item: Any) -> int | None:
    """Return a hash of more bits, where a result is used because of it; ``None`` as ``hash_of``."""
    text = text_of(item)
    return None if text is None else hash_of_text(text)


def hash_like(stored: int, item: Any) -> int | None:
    """Return a hash of an item, of the kind of a stored one."""
    return hash_of(item) if 0 <= stored < _WIDE else wide_hash_of(item)


def hash_of(item: Any) -> int | None:
    """Return a hash of an item that is JSON-like, the same in each process; ``None`` for others."""
    if type(item) in _SCALARS:
        return zlib.crc32(dump(item).encode())
    try:
        text = dump(plain(item))
    except Exception:  # noqa: BLE001 - whatever the code of an item's class raises
        return None
    return zlib.crc32(text.encode())
