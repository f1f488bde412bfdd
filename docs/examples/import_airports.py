"""Import the world's airports into a SQLite database, in batches that survive a kill.

Kill it at any moment and start it again: it continues with the first batch that has no
checkpoint. Start it once more when it is done: it finds that the file is imported already.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.resources
import io
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, fields, validators

import durably


@define
class Airport:
    """One row of the target table. A row of the CSV that does not fit is malformed."""

    icao: str = field(validator=validators.matches_re(r"[A-Z0-9_-]{3,4}"))
    iata: str = field(validator=validators.matches_re(r"([A-Z0-9]{3})?"))
    name: str = field(validator=validators.min_len(1))
    city: str
    country: str = field(validator=validators.matches_re(r"[A-Z]{2}"))
    lat: float = field(converter=float, validator=[validators.ge(-90), validators.le(90)])
    lon: float = field(converter=float, validator=[validators.ge(-180), validators.le(180)])
    tz: str

    @classmethod
    def from_row(cls, row: dict[Any, Any]) -> Airport:
        """Return the airport of a row of the CSV; raise ``ValueError`` if a field is wrong."""
        if None in row:
            raise ValueError("more fields than columns")
        return cls(**{column: row[column] for column in COLUMNS})


@define
class Source:
    """The job's payload: the file to import, and the target."""

    csv: Path
    sha256: str
    target: Path
    batch_size: int


@define
class Batch:
    """The result of a step, which its checkpoint stores: counts and problems, not the rows."""

    rows: int
    malformed: list[str]


@define
class Imported:
    """The job's result."""

    rows: int
    malformed: int


COLUMNS = [column.name for column in fields(Airport)]
CREATE = """
    CREATE TABLE IF NOT EXISTS airports (icao TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT,
                                         country TEXT, lat REAL, lon REAL, tz TEXT)"""
UPSERT = """
    INSERT INTO airports (icao, iata, name, city, country, lat, lon, tz)
    VALUES (:icao, :iata, :name, :city, :country, :lat, :lon, :tz)
    ON CONFLICT (icao) DO UPDATE SET
        iata = excluded.iata, name = excluded.name, city = excluded.city,
        country = excluded.country, lat = excluded.lat, lon = excluded.lon, tz = excluded.tz"""

Row = tuple[int, dict[Any, Any]]  # its line in the file, its fields by column


def read_rows(source: Source) -> list[Row]:
    """Return every row of the CSV; raise ``ValueError`` if the file has changed."""
    content = source.csv.read_bytes()
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise ValueError(f"{source.csv} has changed since this import began")
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restval="")
    if missing := set(COLUMNS) - set(reader.fieldnames or ()):
        raise ValueError(f"{source.csv} has no column {', '.join(sorted(missing))}")
    return [(reader.line_num, row) for row in reader]


def import_batch(target: Path, rows: list[Row]) -> Batch:
    """Store *rows* in the target in one transaction. Doing it twice changes nothing."""
    airports, malformed = [], []
    for line, row in rows:
        try:
            airports.append(asdict(Airport.from_row(row)))
        except ValueError as error:
            malformed.append(f"line {line}: {error.args[0]}")
    with closing(sqlite3.connect(target, timeout=30)) as db, db:
        db.execute(CREATE)
        db.executemany(UPSERT, airports)
    return Batch(len(airports), malformed)


@durably.job("import-airports")
def import_airports(step: durably.StepContext, source: Source) -> Imported:
    """Import the CSV, with one step, and so one checkpoint, for each batch."""
    rows = read_rows(source)
    imported = Imported(rows=0, malformed=0)
    for start in range(0, len(rows), source.batch_size):
        some = rows[start : start + source.batch_size]
        batch = step.run(f"rows-{start}", import_batch, source.target, some)
        for problem in batch.malformed:
            step.log.warning(problem)
        imported.rows += batch.rows
        imported.malformed += len(batch.malformed)
        step.progress(start + len(some), len(rows))
    return imported


@define
class Screen:
    """Rewrite one line of a terminal; elsewhere print a line for each tenth of the rows."""

    tenths: int = 0

    def progress(self, progress: durably.Progress) -> None:
        """Show *progress*."""
        total = progress.total or 1
        tenths = int(10 * progress.current / total)
        text = f"{progress.current:,.0f} of {total:,.0f} rows"
        if sys.stdout.isatty():
            print(f"\r\033[K{text} ", end="", flush=True)
        elif tenths > self.tenths:
            print(text, flush=True)
        self.tenths = tenths

    def say(self, text: str) -> None:
        """Print a line that stays, in place of the progress."""
        print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)


def main() -> int:
    """Import, print what was done, and return the exit status."""
    options = parse_options()
    began = time.monotonic()
    sha256 = hashlib.sha256(options.source.read_bytes()).hexdigest()
    source = Source(options.source, sha256, options.target, options.batch_size)
    key = f"{sha256} by {options.batch_size} into {options.target}"
    screen = Screen()
    seen: Counter[str] = Counter()

    def listen(event: Any) -> None:
        seen[event.type] += 1
        if event.type == "run:progress":
            screen.progress(event.progress)
        if event.type == "log:write":
            screen.say(f"malformed, left out: {event.message}")
        if event.type == "step:complete" and seen[event.type] == options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)  # The checkpoint of this batch is committed.

    try:
        with closing(durably.Durably(options.database)) as app:
            app.on("*", listen)
            run = app.run(import_airports, source, key=key)
    except KeyboardInterrupt:
        screen.say("Interrupted. Start it again to continue from the last checkpoint.")
        return 130
    except durably.RunFailedError as failed:
        screen.say(f"Failed: {failed.run.error}. Fix the cause and start it again to continue.")
        return 1
    except durably.DurablyError as error:
        screen.say(f"{error}")
        return 1
    if run.disposition == "idempotent":
        screen.say(f"Nothing to do: {source.csv.name} is in {source.target.name} already.")
    screen.say(
        f"{run.output.rows:,} rows imported ({run.output.malformed:,} malformed), "
        f"{seen['step:complete']:,} batches executed now, "
        f"{seen['step:skip']:,} found in checkpoints, {time.monotonic() - began:.1f} seconds."
    )
    return 0


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    shipped = Path(str(importlib.resources.files("airportsdata") / "airports.csv"))
    parser = argparse.ArgumentParser(description="Import airports, in batches that survive a kill.")
    parser.add_argument("--source", type=Path, default=shipped, help="a CSV file of your own")
    parser.add_argument("--target", type=Path, default="airports.db", help="where the rows go")
    parser.add_argument("--database", type=Path, default="airports-durably.db", help="durably's")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--die-after", type=int, help="SIGKILL itself after so many batches")
    options = parser.parse_args()
    options.source, options.target = options.source.resolve(), options.target.resolve()
    if not options.source.is_file():
        parser.error(f"--source: there is no file {options.source}")
    if options.target == options.database.resolve():
        parser.error("--target and --database must be two files")
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
