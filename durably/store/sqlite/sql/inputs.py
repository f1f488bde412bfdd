"""Hashes of what results were made of, stored when results are first used of which none is known.

A result that was stored before anybody asked for ``on_change="redo"`` has none. From its first use
on, it is known what it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from durably.store.rows import RunKey
from durably.store.sqlite.sql.items import INDEX_BITS, IS_CURRENT

NOTE_STEP: Final = f"""
    UPDATE durably_steps SET inputs = :inputs
    WHERE run = :run AND name = :name AND inputs IS NULL AND status = 'completed'
      AND {IS_CURRENT}"""

# The hash of the item itself is kept if there is one.
NOTE_ITEM: Final = f"""
    UPDATE durably_items SET inputs = :inputs, hash = coalesce(hash, :hash)
    WHERE item = :item AND inputs IS NULL AND output IS NOT NULL AND {IS_CURRENT}"""

NOTE_MAP: Final = f"""
    UPDATE durably_maps SET items = :items
    WHERE map = :map AND items IS NULL AND status = 'completed' AND {IS_CURRENT}"""


def note(db: apsw.Connection, run_pk: RunKey, fence: int, name: str, inputs: int) -> bool:
    """Store what a step's result is taken to be made of, unless that is known."""
    bindings = {"run": run_pk, "fence": fence, "name": name, "inputs": inputs}
    return db.execute(f"{NOTE_STEP} RETURNING 1", bindings).get is not None


def note_items(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    map_pk: int,
    inputs: int,
    hashes: Sequence[tuple[int, int | None]],
) -> bool:
    """Store the index of each of these items of a map, and the hash of the item itself."""
    first = map_pk << INDEX_BITS
    bindings = {"run": run_pk, "fence": fence, "inputs": inputs}
    db.executemany(
        NOTE_ITEM, (bindings | {"item": first + index, "hash": hash_} for index, hash_ in hashes)
    )
    return True


def note_map(db: apsw.Connection, run_pk: RunKey, fence: int, map_pk: int, items: int) -> bool:
    """Store a hash of which items a map has."""
    bindings = {"run": run_pk, "fence": fence, "map": map_pk, "items": items}
    return db.execute(f"{NOTE_MAP} RETURNING 1", bindings).get is not None
