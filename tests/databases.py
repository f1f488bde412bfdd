"""Open a database file as another program would, one that waits for its turn."""

from __future__ import annotations

import os

import apsw

_PATIENCE_MS = 10_000


def open_database(path: str | os.PathLike[str]) -> apsw.Connection:
    """Return a connection that waits for others, as SQLite by itself does not.

    What durably's threads do to the file at that moment must not decide what a test finds.
    """
    db = apsw.Connection(os.fspath(path))
    db.set_busy_timeout(_PATIENCE_MS)
    return db
