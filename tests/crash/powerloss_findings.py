"""What is found after a loss of power, against what was promised before it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import attrs
from crash.powerloss_recording import CODEC, NAME, jobs_of
from invariants import check
from powerloss import Disk, Entry, Mark, put

import durably
from durably.codec import Codec
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.sql import blobs, schema

TABLES: Final = (
    "durably_owners",
    "durably_runs",
    "durably_steps",
    "durably_labels",
    "durably_logs",
    "sqlite_sequence",
)


# -- what was promised ------------------------------------------------------------------------


@attrs.define
class Promise:
    """What the caller may rely on of one run."""

    exists: bool | None = None
    statuses: set[str] | None = None
    steps: dict[str, str] = attrs.Factory(dict)
    # Other threads may tell how a run went on before this one tells that it was retried.
    is_retrying: bool = False


def promises(marks: list[Mark]) -> dict[str, Promise]:
    """What was acknowledged by these marks, less what has been begun to change since."""
    found: dict[str, Promise] = {}
    for verb, subject, value in marks:
        if verb == "purging":
            for promise in found.values():
                promise.exists, promise.statuses, promise.steps = None, None, {}
            continue
        run_id = subject[0] if isinstance(subject, tuple) else subject
        promise = found.setdefault(run_id, Promise())
        promise.is_retrying &= verb == "retried"
        if verb == "triggered":
            promise.exists = True
        elif verb == "stepped":
            promise.steps[subject[1]] = value
        elif verb in ("completed", "failed", "cancelled"):
            promise.statuses = {verb}
        elif verb == "retried" and promise.is_retrying:
            promise.statuses = {"pending", "running"}
        elif verb in ("started", "cancelling", "retrying"):
            promise.statuses = None
            promise.is_retrying = verb == "retrying"
        elif verb == "deleting":
            promise.exists, promise.statuses, promise.steps = None, None, {}
        elif verb == "deleted":
            promise.exists, promise.statuses, promise.steps = False, None, {}
    return found


def broken_promises(db: apsw.Connection, marks: list[Mark]) -> list[str]:
    """What was acknowledged and is not in the database."""
    status_of = dict(db.execute("SELECT id, status FROM durably_runs").fetchall())
    steps = _completed(db)
    broken = []
    for run_id, promise in promises(marks).items():
        status = status_of.get(run_id)
        if promise.exists is not None and promise.exists != (status is not None):
            broken.append(f"run {run_id} was to exist: {promise.exists}, and is {status}")
        elif status is not None:
            if promise.statuses is not None and status not in promise.statuses:
                broken.append(f"run {run_id} was {promise.statuses}, and is {status}")
            broken += [
                f"step {name} of run {run_id} was acknowledged, and is not there"
                for name, value in promise.steps.items()
                if steps.get((run_id, name)) != value
            ]
    return broken


# -- what is found ----------------------------------------------------------------------------


def digest(db: apsw.Connection) -> str | None:
    """All that the tables hold, or ``None`` where there are none yet."""
    if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'durably_runs'").get:
        return None
    content = [db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES]
    return str(hash(repr(content)))


@contextmanager
def opened(folder: Path) -> Iterator[apsw.Connection]:
    """A connection to the files of a disk, which are read as they are."""
    db = apsw.Connection(str(folder / NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        yield db
    finally:
        db.close()


@contextmanager
def laid_out(disk: Disk, lost: str, rng: random.Random, folder: Path) -> Iterator[Path]:
    """The files of *disk* after a loss of power, in a new folder that goes again."""
    image = Path(tempfile.mkdtemp(dir=folder))
    try:
        put(disk.after_power_loss(lost, rng), image)
        yield image
    finally:
        shutil.rmtree(image)


def states(log: list[Entry], folder: Path) -> list[str | None]:
    """What the tables held after each commit, the first being none."""
    disk = Disk(log)
    rng = random.Random(0)
    found: list[str | None] = [None]
    for at in range(1, len(log) + 1):
        disk.advance(at)
        if disk.commits == len(found):
            with laid_out(disk, "nothing", rng, folder) as image, opened(image) as db:
                found.append(digest(db))
    return found


@attrs.define
class Examiner:
    """Looks at what is left of one recorded workload after a loss of power.

    Args:
        is_full: whether nothing that was acknowledged may be lost.
    """

    log: list[Entry]
    known: list[str | None]
    folder: Path
    is_full: bool
    counts: Counter[str] = attrs.Factory(Counter)

    def examine(self, disk: Disk, lost: str, rng: random.Random, *, resumes: bool) -> list[str]:
        """Everything that is wrong; empty if nothing is."""
        with laid_out(disk, lost, rng, self.folder) as image:
            self.counts["images"] += 1
            marks = [entry for entry in self.log[: disk.at] if isinstance(entry, Mark)]
            if not (image / NAME).is_file():
                # Its name was never safe; then nothing may have been promised.
                return ["the file is gone"] if promises(marks) or disk.safe_commits else []
            try:
                found = self.content(image, disk, marks)
                if not found and resumes:
                    self.counts["resumed"] += 1
                    found = resume(image)
            except (apsw.Error, UnicodeDecodeError, durably.DurablyError) as exc:
                return [f"unreadable: {type(exc).__name__}: {exc}"]
            return found

    def content(self, image: Path, disk: Disk, marks: list[Mark]) -> list[str]:
        """What is wrong with the files of *image*, found after *marks*."""
        with opened(image) as db:
            now = digest(db)
            broken = broken_promises(db, marks) if now is not None else [str(promises(marks))]
            is_migrated = db.pragma("user_version") == len(schema.migrations())
        if now is None:
            if disk.safe_commits or (self.is_full and promises(marks)):
                return ["everything is gone"]
            return []
        # Between two migrations it is what the older durably left; the resume brings it up to date.
        found = check(image / NAME, is_sequential=True) if is_migrated else []
        # The one in progress may be found done: where its last page is what lay in that place
        # before, its frame is whole as soon as its header is.
        newest = disk.commits + disk.is_inside_commit
        places = [n for n, state in enumerate(self.known) if state == now]
        if not places:
            found.append("it is not what the database was after any commit")
        elif min(places) > newest:
            found.append(f"it is commit {places}, and only {newest} were made")
        elif max(places) < disk.safe_commits:
            found.append(f"commit {disk.safe_commits} was synced; this is commit {places}")
        if self.is_full:
            found += broken
        elif broken:
            self.counts["images without the newest acknowledged"] += 1
        return found


def resume(image: Path) -> list[str]:
    """Go on with what the disk held, after another start of the machine; what was wrong."""
    with opened(image) as db:
        kept = _completed(db)
        tokens = _tokens(db)
    for token in tokens:
        # The folder was synced with its name in it before the owner's row was stored.
        (image / f"{NAME}.owner-{token}").touch()
    executed: set[tuple[str, str]] = set()

    def told(verb: str, subject: Any, value: Any = None) -> None:
        if verb == "executing":
            executed.add(subject)

    app: durably.Durably

    def cancel(run_id: str) -> None:
        app.cancel(run_id)

    app = durably.Durably(
        image / NAME,
        jobs=jobs_of(told, cancel),
        codecs=[CODEC],
        synchronous="normal",
    )
    try:
        app.run_until_idle(raise_failed=False)
        runs = app.get_runs()
        folder = image / f"{NAME}.blobs"
        for path in folder.glob("*"):
            os.utime(path, (1, 1))
        app._store.sweep_files()
        left = {path.name for path in folder.glob("*")}
        unused = left - app._store.database.read(blobs.all_referred).keys()
    finally:
        app.close()
    found = check(image / NAME, is_sequential=True, is_idle=True, is_finished=True)
    found += [f"a file of no run is left: {name}" for name in unused]
    found += [f"executed again: {place}" for place in executed & kept.keys()]
    with opened(image) as db:
        now = _completed(db)
    found += [f"another result: {place}" for place in kept if now.get(place) != kept[place]]
    for run in runs:
        steps = [now.get((run.id, f"step-{n}")) for n in range(run.payload["steps"])]
        if run.status == "completed" and run.output != steps:
            found.append(f"run {run.id} returned something else than its steps")
    return found


def _tokens(db: apsw.Connection) -> list[str]:
    if digest(db) is None:
        return []
    return [token for (token,) in db.execute("SELECT token FROM durably_owners")]


def _completed(db: apsw.Connection) -> dict[tuple[str, str], str]:
    if digest(db) is None:
        return {}
    rows = db.execute(
        """SELECT r.id, s.name, s.output FROM durably_steps s JOIN durably_runs r
           USING (run) WHERE s.status = 'completed'"""
    ).fetchall()
    path = Path(db.filename)
    codec = Codec(codecs=[CODEC])
    filing = Filing(None, f"{path}.blobs")  # type: ignore[arg-type]
    filing.folder = BlobFolder(f"{path}.blobs", str(path))
    codec.use_files(filing)
    return {(run_id, name): codec.load_json(output) for run_id, name, output in rows}
