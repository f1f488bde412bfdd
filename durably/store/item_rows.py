"""The values of the store's interface that are of maps and their items, as they are stored."""

# Without ``from __future__ import annotations``, as in ``store.rows``.
from typing import NamedTuple

# What tells the items of a map apart; NULL in a map without keys.
Key = str | int

# One item as it is stored: its index, its key, its output or its error (JSON text), the number of
# tries, a hash of the item itself, and when it started and ended. A plain tuple, because a resume
# reads each one.
ItemRow = tuple[int, Key | None, str | None, str | None, int, int | None, int, int]

# What follows in it under ``on_change="redo"``: its fingerprint and its layer, if it has them, a
# hash of what it was made of beside its item and the code, and whether a person has set it.
LayeredItemRow = tuple[
    int, Key | None, str | None, str | None, int, int | None, int, int,
    int | None, int | None, int | None, int,
]  # fmt: skip

# The same to be stored, with the fingerprint of the function that has made it, unless that is the
# one of the map.
NewItem = tuple[int, Key | None, str | None, str | None, int, int | None, int, int, int | None]
# And under ``on_change="redo"`` with its layer and that hash.
LayeredItem = tuple[
    int, Key | None, str | None, str | None, int, int | None, int, int, int | None,
    int, int | None,
]  # fmt: skip


class ItemOfMap(NamedTuple):
    """One item with all its columns; the first ones are those of ``ItemRow``."""

    item_index: int
    key: Key | None
    output: str | None
    error: str | None
    attempts: int
    hash: int | None
    started_at_us: int
    completed_at_us: int
    is_manual: int = 0


class ItemWindow(NamedTuple):
    """Consecutive items of a map, and the index where the next window begins."""

    items: list[ItemRow]
    next_index: int | None


class MapRow(NamedTuple):
    """A map as it is stored: its number, its index among the steps, and its highest item."""

    map: int
    step_index: int
    is_keyed: bool
    status: str | None
    highest_index: int
    # The fingerprint of the function of its first items, and of the items that have none.
    code: int | None = None
    has_codes: bool = False
    # Whether it has failed items that are not tried again now.
    has_held: bool = False
    # When something of it was stored last, and when its items were that have no layer of their own.
    layer: int = 0
    old_layer: int = 0
    # A hash of which items it had when it completed; ``None`` for unknown.
    items: int | None = None


class MapState(NamedTuple):
    """What is stored of a map with its items; ``status`` is ``None`` until it has ended."""

    step_index: int
    name: str
    is_keyed: bool
    done: int
    failed: int
    reused: int
    total: int | None
    started_at_us: int
    status: str | None = None
    error: str | None = None
    completed_at_us: int | None = None
    # Of its function, and the index of the step that it is inside of: stored with its first items.
    code: int | None = None
    outer: int | None = None
    # Under ``on_change="redo"``, where the items have a layer too, and a hash of ``depends_on``.
    layer: int | None = None
    # A hash of which items it has, once it has completed.
    items: int | None = None


class FailureKind(NamedTuple):
    """The failures of a map's items with one type of exception: the first one's message, some keys.

    ``times`` counts those that were read.
    """

    type: str
    message: str
    times: int
    keys: tuple[Key, ...]
