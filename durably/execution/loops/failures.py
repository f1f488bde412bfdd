"""The items of a map that have failed: how many, of what kind, and whether they are too many."""

from __future__ import annotations

from bisect import insort
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs

from durably._platform.safe_repr import on_one_line, safe_str
from durably.errors import ItemsFailedError

if TYPE_CHECKING:
    from durably.store.item_rows import Key

# So many exceptions are kept; the message counts the others.
MOST_KEPT: Final = 1000
# From so many on, a fraction of what was tried is checked.
_FIRST_TRIED: Final = 20
_MOST_KINDS: Final = 5
_MOST_KEYS: Final = 3
_LONGEST_MESSAGE: Final = 100
_LONGEST_KEY: Final = 40


@attrs.define(eq=False, repr=False)
class Kind:
    """What has failed with exceptions of one class."""

    name: str
    # Of its first items, by position: their keys, and what was said of the first.
    first: list[tuple[int, Key]] = attrs.field(factory=list)
    message: str = ""
    count: int = 0

    def add(self, position: int, key: Key, exc: BaseException) -> None:
        """Count an exception of this kind."""
        self.count += 1
        if len(self.first) <= _MOST_KEYS or position < self.first[-1][0]:
            insort(self.first, (position, key), key=lambda each: each[0])
            del self.first[_MOST_KEYS + 1 :]
            if self.first[0][0] == position:
                self.message = on_one_line(safe_str(exc), _LONGEST_MESSAGE)

    def shown_keys(self, more: str) -> str:
        """Return the keys of the first of them, and *more* if there are others."""
        keys = [on_one_line(str(key), _LONGEST_KEY) for _, key in self.first[:_MOST_KEYS]]
        return ", ".join([*keys, more] if self.count > len(keys) else keys)


class Failures:
    """What has failed in one execution of a map. Used by one thread."""

    def __init__(self, name: str, most: float | None) -> None:
        self._name = name
        self._most = most
        self._kinds: dict[str, Kind] = {}
        self._kept: list[tuple[int, Exception]] = []
        self.count = 0
        # What is no exception of a program but ends it, such as SystemExit.
        self.fatal: BaseException | None = None

    def add(self, position: int, key: Key, exc: BaseException) -> None:
        """Count an item that has failed."""
        self.count += 1
        name = type(exc).__qualname__
        self._kinds.setdefault(name, Kind(name)).add(position, key, exc)
        if not isinstance(exc, Exception):
            self.fatal = self.fatal or exc
            return
        if len(self._kept) < MOST_KEPT:
            with suppress(TypeError):  # its notes are something else
                exc.add_note(f"item {key!r} of step {self._name!r}")
            self._kept.append((position, exc))

    @property
    def kinds(self) -> list[Kind]:
        """Return of what kinds they are, the most frequent first; at most five."""
        return self._sorted_kinds()[:_MOST_KINDS]

    def _sorted_kinds(self) -> list[Kind]:
        return sorted(self._kinds.values(), key=lambda kind: -kind.count)

    def are_too_many(self, failed: int, tried: int) -> bool:
        """Return whether no further item is to begin, after so many have failed. Thread-safe."""
        most = self._most
        if most is None:
            return False
        if isinstance(most, float):
            return tried >= _FIRST_TRIED and failed > most * tried
        return failed > most

    def error(self, total: int, *, is_early: bool) -> ItemsFailedError:
        """Return the error that says so of all of them, of *total* items."""
        kinds = self._sorted_kinds()
        said = [_said_of(kind) for kind in kinds[:_MOST_KINDS]]
        if len(kinds) > _MOST_KINDS:
            rest = sum(kind.count for kind in kinds[_MOST_KINDS:])
            said.append(f"{rest:,} x others")
        early = ", and no further item began (max_failures)" if is_early else ""
        return ItemsFailedError(
            f"{self.count:,} of {total:,} items failed: {', '.join(said)}{early}",
            [exc for _, exc in sorted(self._kept, key=lambda each: each[0])],
        )


def _said_of(kind: Kind) -> str:
    message = f": {kind.message}" if kind.message else ""
    return f"{kind.count:,} x {kind.name}{message} ({kind.shown_keys('...')})"
