"""Check that the files of a database are there and whole, and that no other is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import apsw

from durably.errors import DatabaseError
from durably.store.sqlite.blobs.folder import BlobFolder, is_name

REFERENCES: Final = """
    SELECT b.hash, b.run, r.id FROM durably_blobs b JOIN durably_runs r USING (run)
    ORDER BY b.hash"""

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
            folder.read(name)
        except DatabaseError as exc:
            yield "a file of a run is missing or damaged", f"{where}, {exc}"
    dropped: list[Any] = db.execute(DROPPED).fetchall()
    for name in folder.orphans({*names, *(row[0] for row in dropped)}, time.time()):
        yield "a file of no run is over an hour old", f"file={name!a:.80}"
