"""Check that the files of a database are there and whole, and that no other is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import apsw

from durably.codec.forms import FILE, SHAPES, TAG
from durably.codec.json_text import FILED, TAGGED
from durably.errors import DatabaseError
from durably.store.sqlite.blobs.folder import BlobFolder, is_name

REFERENCES: Final = """
    SELECT b.hash, b.run, r.id FROM durably_blobs b JOIN durably_runs r USING (run)
    ORDER BY b.hash"""

# Those that begin with a mark: of what is in a file, or of values that may have parts in files.
TEXTS: Final = """
    SELECT run, place, CAST(text AS BLOB) FROM (
        SELECT run, 'payload' AS place, payload AS text FROM durably_runs
        UNION ALL
        SELECT run, 'output', output FROM durably_runs
        UNION ALL
        SELECT run, 'step ' || (step & 0xFFFFFF), output FROM durably_steps
        UNION ALL
        SELECT m.run, 'map ' || m.map, i.output
        FROM durably_maps m JOIN durably_items i
          ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30)
        UNION ALL
        SELECT run, 'answer to ' || quote(name), answer FROM durably_waits)
    WHERE substr(text, 1, 1) = char(10)
       OR (substr(text, 1, 1) = char(9) AND instr(text, '"file"'))"""

NAMED: Final = "SELECT hash FROM durably_blobs WHERE run = ?"

DROPPED: Final = "SELECT hash FROM durably_dropped_blobs"


def problems(db: apsw.Connection, folder: BlobFolder) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the files, as a problem and a place. Each is read once."""
    references: list[Any] = db.execute(REFERENCES).fetchall()
    names: dict[str, list[str]] = {}
    for name, _, run_id in references:
        names.setdefault(name, []).append(run_id)
    for name, run_ids in names.items():
        where = f"run={run_ids[0]!a:.80}, file={name!a:.80}"
        if not is_name(name):
            yield "a file has a name that durably never gives", where
            continue
        try:
            folder.open(name).close()
        except DatabaseError as exc:
            yield "a file of a run is missing or damaged", f"{where}, {exc}"
    yield from _unnamed(db)
    dropped: list[Any] = db.execute(DROPPED).fetchall()
    for name in folder.orphans({*names, *(row[0] for row in dropped)}, time.time()):
        yield "a file of no run is over an hour old", f"file={name!a:.80}"


def _unnamed(db: apsw.Connection) -> Iterator[tuple[str, str]]:
    """Yield the values in files that no row of ``durably_blobs`` names."""
    rows: list[Any] = db.execute(TEXTS).fetchall()
    for run, place, text in rows:
        known = {row[0] for row in db.execute(NAMED, (run,))}
        if not names_in(text.decode(errors="replace")) <= known:
            yield "a value is in a file that no row names", f"run={run}, place={place!a:.80}"


def names_in(text: str) -> set[str]:
    """Return the names of the files that a stored text refers to."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if text.startswith(FILED):
        if type(data) is not dict:
            return {""}  # which is no name
        return {str(data.get(FILE)), *map(str, data.get("parts", ()))}
    return set(_parts_of(data)) if text.startswith(TAGGED) else set()


def _parts_of(data: Any) -> Iterator[str]:
    left = [data]
    while left:
        each = left.pop()
        if type(each) is list:
            left += each
        elif type(each) is dict:
            if FILE in each and TAG in each and each.keys() in SHAPES:
                yield str(each[FILE])
            else:
                left += each.values()
