"""The schema: its versions, and how a file gets to the newest one.

Each version is one numbered file of ``migrations/``; it is applied, and recorded in
``user_version``, in one transaction, under SQLite's write lock. Several processes may open
a new file at once: one migrates, the others find it done.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Final

import apsw

from durably.errors import SchemaError

# "Dura" in ASCII: tells a durably database from any other SQLite file.
APPLICATION_ID: Final = 0x44757261

_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)"


def migrations() -> list[str]:
    """The scripts, oldest first; the n-th leads to version n."""
    folder = resources.files("durably.store") / "migrations"
    scripts = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return [entry.read_text(encoding="utf-8") for entry in scripts]


def version_of(db: apsw.Connection, path: str, newest: int) -> int:
    """The schema version of the file, 0 if it is new.

    Reads only. Must be called inside a transaction where a decision hangs on it.

    Raises:
        SchemaError: the file is another program's, or a newer durably's.
    """
    application_id = db.pragma("application_id")
    version = db.pragma("user_version")
    if application_id == 0 and version == 0 and db.execute(_IS_EMPTY).get:
        return 0
    if application_id != APPLICATION_ID:
        raise SchemaError(
            f"{path!r} is a database of another program, not durably's; it was left as it "
            "is. Give durably a file of its own."
        )
    if version > newest:
        raise SchemaError(
            f"{path!r} was written by a newer durably (schema {version}; this one knows "
            f"{newest}); it was left as it is. Update durably to use it."
        )
    return int(version)


def not_a_database(path: str) -> SchemaError:
    """The error for a file that is something else, such as text."""
    return SchemaError(
        f"{path!r} is not an SQLite database, or is encrypted; it was left as it is. Give durably "
        "a file of its own."
    )


def migrate(
    db: apsw.Connection, path: str, begin: Callable[[], None], scripts: list[str] | None = None
) -> None:
    """Bring the file to the newest version, one transaction each.

    Args:
        begin: starts a write transaction, waiting for the lock.
        scripts: the migrations; the package's own by default.
    """
    steps = migrations() if scripts is None else scripts
    while True:
        begin()
        try:
            # Read under the write lock: whoever had it before us may have migrated.
            version = version_of(db, path, len(steps))
            if version < len(steps):
                # Fetched to the end: APSW stops at the first statement that returns a row.
                db.execute(steps[version]).fetchall()
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", version + 1)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if version >= len(steps):
            return
