"""Other code that uses the file: in the same process, as a long reader, and by the dozen."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import apsw
from crash.driving import Finding, Herd, Threads, alone, fork, in_child, status_of, until
from crash.workload import Ledger, check_what_is_left, check_while_others_live
from invariants import check

import durably
from durably.store.sqlite.connection.connections import JOURNAL_SIZE_LIMIT

SUFFIXES = ("", "-wal", "-shm")


# -- in the same process --------------------------------------------------------------------


# A neighbour that closes the database as the last one to have it open deletes the log. If its own
# lock is dropped in the middle of that, it deletes it under a process that opens the file just
# then. docs/reliability.md has it under "What is not promised in rare cases", so nothing else is
# closed or opened meanwhile.
CLOSING: Final = threading.Lock()


def poked(deadline: float, seed: int) -> Counter[str]:
    """Two processes write while code in each opens, reads and closes the files every few ms."""
    return alone(drive_poked, deadline, seed)


def drive_poked(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """A few seconds on one file, then a check of what is left."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live_poked, place), rng, counts)
        herd.grow(2)
        time.sleep(max(0.5, min(4.0, deadline - time.monotonic())))
        if rng.random() < 0.3:
            herd.kill(herd.any())
        herd.end()
        check_what_is_left(place, counts)
        ledger = Ledger(place)
        for what, times in ledger.acknowledged("poked"):
            counts[f"foreign: {what.replace('-', ' ')}"] += int(times)
        counts["reads of ours"] += sum(int(n) for (n,) in ledger.acknowledged("read"))
        counts["reads of ours refused"] += len(ledger.acknowledged("refused"))
    return counts


def live_poked(folder: Path, seed: int, ending: int) -> None:
    """Trigger, execute, read, checkpoint, open and close, with a neighbour all the time."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    neighbours = Threads()
    database = folder / "runs.db"

    def opened() -> durably.Durably:
        with CLOSING:
            return durably.Durably(database, jobs=[ledger.job()], synchronous="normal")

    app = opened()
    for _ in range(2):
        neighbours.start(poke, database, ledger, rng.randrange(2**32), neighbours.over)
    ended = threading.Event()
    threading.Thread(target=lambda: (os.read(ending, 1), ended.set()), daemon=True).start()
    while not ended.is_set():
        # Opened and closed all the time, beside one that stays open or as the only one.
        other = opened()
        if rng.random() < 0.5:
            with CLOSING:
                app.close()
        app = other
        ledger.listen(app)
        with app:
            threads = Threads()
            threads.start(read, app, ledger, threads)
            threads.start(ledger.caller, app, rng.randrange(2**32), threads)
            for _ in range(rng.randrange(1, 20)):
                if ended.wait(0.01):
                    break
                app._store.database.care.wal_checkpoint(above_bytes=0)
            threads.join()
            with CLOSING:
                app.close()
    neighbours.join()


def poke(database: Path, ledger: Ledger, seed: int, over: threading.Event) -> None:
    """What a notebook's other cells do."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    while not over.wait(rng.uniform(0, 0.006)):
        what = rng.choice(["sqlite3", "sqlite3-snapshot", "open-and-close", "copy"])
        try:
            if what == "open-and-close":
                for suffix in rng.sample(SUFFIXES, 3):
                    with CLOSING:
                        Path(f"{database}{suffix}").open("rb").close()
            elif what == "copy":
                with CLOSING:
                    shutil.copy(database, f"{database}.copy-{os.getpid()}")
            else:
                _select(database, 0.02 * rng.random() if what == "sqlite3-snapshot" else 0)
        except (OSError, sqlite3.Error):
            counts["refused"] += 1  # the neighbour's own trouble
        else:
            counts[what] += 1
    for what, times in counts.items():
        ledger.leave("poked", what, times)


def _select(database: Path, pause_s: float) -> None:
    db = sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=0.1)
    try:
        db.execute("BEGIN")
        db.execute("SELECT * FROM durably_runs").fetchall()
        time.sleep(pause_s)
        db.execute("SELECT count(*) FROM durably_steps").fetchall()
        db.execute("ROLLBACK")
    finally:
        with CLOSING:
            db.close()


def read(app: durably.Durably, ledger: Ledger, threads: Threads) -> None:
    """Read what was acknowledged before: it must be there, or the read must fail."""
    reads = 0
    while not threads.over.is_set():
        known = [words[0] for words in ledger.acknowledged("triggered")]
        completed = {words[0] for words in ledger.acknowledged("completed")}
        try:
            runs = {run.id: run for run in app.get_runs()}
            steps = [app.get_steps(run_id) for run_id in known[-5:] if run_id in completed]
        except durably.DatabaseError as exc:
            ledger.leave("refused", type(exc.__cause__).__name__)
            continue
        reads += 1
        missing = [run_id for run_id in known if run_id not in runs]
        if missing or any(len(each) != 5 for each in steps):
            raise Finding(f"a read has not seen what was acknowledged before it: {missing}")
        if undone := [i for i in completed if i in runs and runs[i].status != "completed"]:
            raise Finding(f"a read has not seen that these had completed: {undone}")
        threads.over.wait(0.002)
    ledger.leave("read", reads)


# -- a long reader --------------------------------------------------------------------------


def long_reader(deadline: float, seed: int) -> Counter[str]:
    """A reader that holds a snapshot while work goes on; afterwards the WAL is bounded again."""
    return alone(drive_long_reader, deadline, seed)


def drive_long_reader(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Make the WAL grow beyond its bound, end the reader, and check that it shrinks."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        in_child(read_for_long, place, rng.choice([1.5, 3.0]))
        counts["snapshots held"] += 1
        counts["checks passed"] += 1
    return counts


def read_for_long(folder: Path, factor: float) -> None:
    """An engine whose log cannot be reset while another program reads."""
    database, wal = folder / "runs.db", folder / "runs.db-wal"
    size = 256 * 1024

    @durably.job
    def large(step: durably.StepContext, payload: int) -> int:
        return len(step.run("one", str, "x" * size))

    with durably.Durably(database, jobs=[large], synchronous="normal") as app:
        app.jobs["large"].trigger_and_wait(0, timeout=50)
        reader = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM durably_runs").get
        runs = 0
        while wal.stat().st_size < factor * JOURNAL_SIZE_LIMIT:
            runs += 1
            app.jobs["large"].trigger_and_wait(runs, timeout=50)
        if reader.execute("SELECT count(*) FROM durably_runs").get != seen:
            raise Finding("the reader's snapshot has moved")
        reader.close()
        patience = time.monotonic() + 50
        while wal.stat().st_size > JOURNAL_SIZE_LIMIT:
            runs += 1
            app.jobs["large"].trigger_and_wait(runs, timeout=50)
            if time.monotonic() > patience:
                raise Finding(f"the log still has {wal.stat().st_size} bytes")
        # Without a reader it does not grow any more.
        for _ in range(2 * JOURNAL_SIZE_LIMIT // size):
            runs += 1
            app.jobs["large"].trigger_and_wait(runs, timeout=50)
        if (grown := wal.stat().st_size) > 2 * JOURNAL_SIZE_LIMIT:
            raise Finding(f"the log has grown to {grown} bytes without a reader")
    if wal.exists():
        raise Finding("the log is left after the last close")
    if found := check(database, is_idle=True, is_finished=True):
        raise Finding("\n".join(found))


# -- eight at once --------------------------------------------------------------------------


def crowd(deadline: float, seed: int) -> Counter[str]:
    """Eight processes trigger, execute, cancel, retry, delete and purge at random on one file."""
    return alone(drive_crowd, deadline, seed)


def drive_crowd(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """All open a new file at once; a few seconds, then a check of what is left."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live_in_a_crowd, place), rng, counts)
        herd.grow(8)
        time.sleep(max(1.0, min(6.0, deadline - time.monotonic())))
        check_while_others_live(place)
        herd.end()
        check_the_crowd(place)
        counts["checks passed"] += 2
        for verb, times in Ledger(place).acknowledged("verb"):
            counts[verb] += int(times)
    return counts


VERBS = ("trigger", "batch", "cancel", "retry", "retrigger", "delete", "purge", "look")


def live_in_a_crowd(folder: Path, seed: int, ending: int) -> None:
    """One of eight."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    app = durably.Durably(
        folder / "runs.db",
        jobs=[ledger.job(rng.choice([0, 0.002]))],
        max_workers=2,
        poll_interval=0.1,
        synchronous=rng.choice(["full", "normal"]),
    )
    app.start()
    threads = Threads()
    threads.start(act, app, ledger, rng, threads)
    os.read(ending, 1)
    threads.join()
    app.stop(interrupt=rng.random() < 0.5)
    app.close()


def act(app: durably.Durably, ledger: Ledger, rng: random.Random, threads: Threads) -> None:
    """One verb after the other, each on whatever run is found."""
    counts: Counter[str] = Counter()
    while not threads.over.wait(rng.expovariate(1 / 0.005)):
        verb = rng.choice(VERBS)
        try:
            _act(verb, app, ledger, rng)
        except (durably.ConflictError, durably.NotFoundError):
            counts[f"{verb}-refused"] += 1
        else:
            counts[verb] += 1
    for verb, times in counts.items():
        ledger.leave("verb", verb, times)


def _act(verb: str, app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    handle = app.jobs["work"]
    runs = app.get_runs(limit=30) if verb not in ("trigger", "batch", "purge") else []
    run: Any = rng.choice(runs) if runs else None
    if verb in ("trigger", "batch") or (run is None and verb != "purge"):
        if app.count_runs(status="pending") > 40:
            return
        key = rng.choice([None, "one", "two"])
        items = [durably.Trigger(None, concurrency_key=key)] * (3 if verb == "batch" else 1)
        for each in handle.batch_trigger(items):
            ledger.leave("triggered", each.id)
    elif verb == "purge":
        app.purge_runs(older_than=1.0, limit=20)
        ledger.leave("purged")
    elif verb == "look":
        app.get_steps(run)
    elif verb == "delete":
        app.delete_run(run)
        ledger.leave("deleted", run.id)
    else:
        getattr(app, verb)(run)


def check_the_crowd(folder: Path) -> None:
    """Execute what is left; what was deleted stays gone, and no step was executed twice."""
    ledger = Ledger(folder)

    def finish() -> None:
        app = durably.Durably(folder / "runs.db", jobs=[ledger.job()])
        with app:
            for run in app.get_runs(status="cancelled"):
                app.retry(run)
        found = check(folder / "runs.db", is_idle=True, is_finished=True)
        app = durably.Durably(folder / "runs.db")
        runs = {run.id: run for run in app.get_runs()}
        stored = {(i, step.name): step.output for i in runs for step in app.get_steps(i)}
        app.close()
        found += [f"{i} was deleted" for (i,) in ledger.acknowledged("deleted") if i in runs]
        found += [f"{i}: {run.status}" for i, run in runs.items() if run.output != 5]
        if not ledger.acknowledged("purged"):
            gone = {i for (i,) in ledger.acknowledged("deleted")}
            known = {i for (i,) in ledger.acknowledged("triggered")}
            found += [f"{i} is gone" for i in known - gone - runs.keys()]
        for run_id, name, value in ledger.acknowledged("returned"):
            if run_id in runs and stored[run_id, name] != value:
                found.append(f"another result of {run_id} {name}")
        if found:
            raise Finding("\n".join(found[:50]))

    if (status := status_of(fork(finish))) != 0:
        raise Finding(f"the crowd's file is not sound: {status}")
