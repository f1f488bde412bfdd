"""Read the items of a map, in the thread that drives it, and find which of them are stored."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any, Final

from durably._platform.safe_repr import type_name
from durably._platform.signals import let_through
from durably.codec.json_text import dump
from durably.codec.plain import plain
from durably.errors import ValidationError
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.stored_items import StoredItems, same_key
from durably.execution.loops.tasks import Task
from durably.names import check_text
from durably.store.rows import Key

# A slow iterator is not read ahead: the item that is there begins.
_PATIENCE_S: Final = 0.001
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_LARGEST_KEY: Final = 2**63
# The keys of a list that is not longer are called for and checked before its first item begins.
_CHECKED_AT_ONCE: Final = 10_000


class Source:
    """The items of a map. Used by one thread.

    Attributes:
        changed: at how many positions with a stored result other items stand than before.
    """

    def __init__(self, options: LoopOptions, stored: StoredItems, clock: Any) -> None:
        self._options = options
        self._stored = stored
        self._clock = clock
        self._iterator: Iterator[Any] | None = None
        self._position = 0
        self.is_exhausted = False
        self.failure: BaseException | None = None
        self.changed = 0

    @property
    def read(self) -> int:
        """How many items were read."""
        return self._position

    def take(self, most: int) -> list[Task]:
        """Return the next items, up to *most*; none only if there are no more.

        One that is stored has its result as ``text``, and one that has failed before its attempts.

        Raises:
            BaseException: the iterable or ``key`` has raised it. What was read before it is
                returned first.
        """
        if self.failure is not None:
            raise self.failure
        pulled: list[tuple[Any, Any]] = []
        try:
            let_through(self._pull, most, pulled)
        except BaseException as exc:
            self.is_exhausted = True
            if not pulled or not isinstance(exc, Exception):
                raise
            self.failure = exc
            self.is_exhausted = False
        return [self._task(item, key) for item, key in pulled]

    def _pull(self, most: int, pulled: list[tuple[Any, Any]]) -> None:
        """Read items into *pulled*. It is code of the user's, but for the list."""
        if self._iterator is None:
            self._iterator = self._begin()
        ends_s = self._clock.monotonic() + _PATIENCE_S
        for pair in self._iterator:
            pulled.append(pair)
            if len(pulled) >= most or self._clock.monotonic() > ends_s:
                return
        self.is_exhausted = True

    def _begin(self) -> Iterator[tuple[Any, Any]]:
        items, key_of = self._options.items, self._options.key
        if key_of is None:
            return zip(items, itertools.repeat(None), strict=False)
        if isinstance(items, list | tuple) and len(items) <= _CHECKED_AT_ONCE:
            # Before any item is executed: what is wrong with a later key is found now.
            items = tuple(items)
            keys = [key_of(item) for item in items]
            _check_all(keys, self._options.what)
            return zip(items, keys, strict=True)
        return ((item, key_of(item)) for item in items)

    def _task(self, item: Any, key: Any) -> Task:
        position = self._position
        if self._options.key is None:
            task = Task(position, position, item)
            row = self._stored.find_at(position)
            task.hash = hash_of(item)
            if (
                row is not None
                and row[2] is not None
                and row[5] is not None
                and task.hash is not None
                and row[5] != task.hash
            ):
                self.changed += 1
        else:
            checked = _checked_key(key, position, self._options.what)
            task = Task(position, checked, item)
            row = self._stored.find(checked, position)
        self._position = position + 1
        if row is None:
            task.index = self._stored.place(task.key, position)
            return task
        task.index, _, task.text, _, task.attempts, _, task.started_at_us, task.completed_at_us = (
            row
        )
        task.is_reused = task.text is not None
        return task


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
        raise ValidationError(
            f"{what}: key= must return a str or an int, not {type_name(key)}, for the item at "
            f"position {position}"
        )
    if not -_LARGEST_KEY <= key < _LARGEST_KEY:
        raise ValidationError(
            f"{what}: the key of the item at position {position} has more than 64 bits; "
            "convert it with str()"
        )
    return int(key)


def hash_of(item: Any) -> int | None:
    """Return a hash of an item that is JSON-like, the same in each process; ``None`` for others."""
    try:
        data = item if type(item) in _SCALARS else plain(item)
        text = dump(data)
    except Exception:  # noqa: BLE001 - whatever the code of an item's class raises
        return None
    return zlib.crc32(text.encode())
