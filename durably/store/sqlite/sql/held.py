"""Failed items that the next execution of their map does not try again: a retry was for others."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw

from durably.codec.json_text import dump
from durably.errors import ConflictError
from durably.store.bounds import MOST_ITEMS
from durably.store.rows import RunKey, RunRow
from durably.store.sqlite.sql import runs

INDEX_BITS: Final = 30

MAPS: Final = "SELECT map, name FROM durably_maps WHERE run = :run"

HOLD: Final = """
    UPDATE durably_items SET is_held = 1
    WHERE item >= :first AND item < :end AND error IS NOT NULL
      AND item & 0x3FFFFFFF NOT IN (SELECT value FROM json_each(:tried))"""


def retry_items(
    db: apsw.Connection, run_id: str, fence: int, tried: Mapping[str, Sequence[int]], now_us: int
) -> list[RunRow]:
    """Retry a run, of whose maps only these items are tried again, given by map and index.

    Return it, and those of its children, and of theirs, that are retried.

    Raises:
        NotFoundError: there is no such run.
        ConflictError: it is in another state, or was executed since it had that fence.
    """
    row, *children = runs.retry_all(db, run_id, now_us)
    if row.fence != fence:
        raise ConflictError(f"run {run_id} was executed meanwhile; call retry again")
    _hold_others(db, row.run, tried)
    return [row, *children]


def _hold_others(db: apsw.Connection, run_pk: RunKey, tried: Mapping[str, Sequence[int]]) -> None:
    maps: list[Any] = db.execute(MAPS, {"run": run_pk}).fetchall()
    for map_pk, name in maps:
        first = map_pk << INDEX_BITS
        bindings = {"first": first, "end": first + MOST_ITEMS}
        db.execute(HOLD, bindings | {"tried": dump([*tried.get(name, ())])})
