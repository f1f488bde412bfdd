"""The rows that say which run refers to which file, and which files nothing refers to any more."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar

import apsw

from durably.codec.json_text import dump
from durably.store.rows import RunKey

T = TypeVar("T")

# How many files are removed at once.
MOST_DROPPED: Final = 500

ADD: Final = """
    INSERT INTO durably_blobs (run, hash, part, size) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"""

REFERRED: Final = """
    SELECT DISTINCT hash FROM durably_blobs
    WHERE hash IN (SELECT value FROM json_each(:names))"""

WAITING: Final = """
    SELECT hash FROM durably_dropped_blobs
    WHERE hash IN (SELECT value FROM json_each(:names))"""

ALL: Final = "SELECT hash, max(size) FROM durably_blobs GROUP BY hash"

DROPPED: Final = "SELECT hash FROM durably_dropped_blobs ORDER BY tries LIMIT :limit"

ALL_DROPPED: Final = "SELECT hash FROM durably_dropped_blobs"

# A commit that changes something syncs the commits before it.
TRY: Final = """
    UPDATE durably_dropped_blobs SET tries = tries + 1
    WHERE hash IN (SELECT value FROM json_each(:names))"""

FORGET: Final = """
    DELETE FROM durably_dropped_blobs WHERE hash IN (SELECT value FROM json_each(:names))"""

COPY: Final = """
    INSERT INTO durably_blobs (run, hash, part, size)
    SELECT :copy, hash, part, size FROM durably_blobs WHERE run = :run ON CONFLICT DO NOTHING"""

# Each row that refers to a file has its name in its text, also if the text itself is a file.
UNUSED: Final = """
    DELETE FROM durably_blobs AS b WHERE b.run = :run
      AND NOT EXISTS (SELECT 1 FROM durably_runs r WHERE r.run = :run
                      AND (instr(r.payload, b.hash) OR instr(r.output, b.hash)))
      AND NOT EXISTS (SELECT 1 FROM durably_steps s
                      WHERE s.step >= (:run << 24) AND s.step < ((:run + 1) << 24)
                        AND instr(s.output, b.hash))
      AND NOT EXISTS (SELECT 1 FROM durably_maps m JOIN durably_items i
                        ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30)
                      WHERE m.run = :run AND instr(i.output, b.hash))
      AND NOT EXISTS (SELECT 1 FROM durably_waits w
                      WHERE w.run = :run AND instr(w.answer, b.hash))"""

OF_STEPS: Final = "DELETE FROM durably_blobs WHERE run = :run AND part = 'step'"


class Reference(NamedTuple):
    """A file that something of a run refers to."""

    hash: str
    size: int


def referring(
    db: apsw.Connection,
    operation: Callable[..., T],
    references: Callable[[T], Sequence[tuple[RunKey, Reference]]],
    part: Literal["run", "step"],
    *args: Any,
) -> T:
    """Execute an operation that stores texts which refer to files, and store that they do.

    Args:
        references: returns which runs refer to which files, from the operation's result.
    """
    result = operation(db, *args)
    for run_pk, reference in references(result):
        db.execute(ADD, (run_pk, reference.hash, part, reference.size))
    return result


def copy_references(db: apsw.Connection, run_pk: RunKey, copy_pk: RunKey) -> None:
    """Store that a run whose rows are copies of another one's refers to the same files.

    To be called in the transaction that copies them, which need not be all.
    """
    db.execute(COPY, {"run": run_pk, "copy": copy_pk})
    drop_unused(db, copy_pk)


def drop_unused(db: apsw.Connection, run_pk: RunKey) -> None:
    """Delete the references of a run to files that none of its rows names any more.

    To be called in the transaction that deletes or replaces some of its rows.
    """
    db.execute(UNUSED, {"run": run_pk})


def referred(db: apsw.Connection, names: Sequence[str]) -> set[str]:
    """Return those of the names that runs refer to."""
    return _names(db, REFERRED, names)


def known(db: apsw.Connection, names: Sequence[str]) -> set[str]:
    """Return those of the names that runs refer to, or that are waiting to be removed."""
    return _names(db, REFERRED, names) | _names(db, WAITING, names)


def all_referred(db: apsw.Connection) -> dict[str, int]:
    """Return the size of each file that runs refer to, by its name."""
    rows: list[Any] = db.execute(ALL).fetchall()
    return dict(rows)


def dropped(db: apsw.Connection) -> list[str]:
    """Return files that are to be removed, those that were tried least first."""
    rows: list[Any] = db.execute(DROPPED, {"limit": MOST_DROPPED}).fetchall()
    return [row[0] for row in rows]


def all_dropped(db: apsw.Connection) -> list[str]:
    """Return the files that are to be removed."""
    rows: list[Any] = db.execute(ALL_DROPPED).fetchall()
    return [row[0] for row in rows]


def note_try(db: apsw.Connection, names: Sequence[str]) -> None:
    """Store that files are about to be removed."""
    db.execute(TRY, {"names": dump(list(names))})


def forget(db: apsw.Connection, names: Sequence[str]) -> None:
    """Store that files need not be removed any more."""
    db.execute(FORGET, {"names": dump(list(names))})


def _names(db: apsw.Connection, statement: str, names: Sequence[str]) -> set[str]:
    rows: list[Any] = db.execute(statement, {"names": dump(list(names))}).fetchall()
    return {row[0] for row in rows}
