"""What happens to the file itself: made and migrated at once, replaced, and a clock that jumps."""

from __future__ import annotations

import functools
import os
import random
import time
from collections import Counter
from pathlib import Path

from crash.driving import GRACE_S, Finding, Herd, alone, fork, in_child, status_of, until
from crash.workload import Ledger, check_what_is_left, live
from invariants import check

import durably
from durably._platform.clock import Clock
from durably.store.sqlite.sql import schema

HOUR_US = 3_600_000_000


def migrations(deadline: float, seed: int) -> Counter[str]:
    """Processes that make a file, or bring it to a newer schema, at once; some are killed."""
    return alone(drive_migrations, deadline, seed)


def drive_migrations(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """A new file each time."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        newer = rng.random() < 0.5
        if newer:
            in_child(open_it, place, False, -1)
        ready, told = os.pipe()
        pids = [fork(open_it, place, newer, ready) for _ in range(rng.choice([2, 4]))]
        os.write(told, b"x" * len(pids))
        for pid in pids:
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 0.01))
                os.kill(pid, 9)
                counts["SIGKILL"] += 1
        statuses = {status_of(pid) for pid in pids}
        if not statuses <= {0, -9}:
            raise Finding(f"of several that open at once these have ended with {statuses}")
        os.close(ready)
        os.close(told)
        in_child(open_it, place, newer, -1)
        in_child(check_version, place, newer)
        counts["migrated" if newer else "made"] += 1
        counts["checks passed"] += 1
    return counts


def open_it(folder: Path, newer: bool, ready: int) -> None:
    """Open and close, as this durably or as a newer one."""
    if newer:
        scripts = [*schema.migrations(), "CREATE TABLE durably_more (more INTEGER) STRICT"]
        schema.migrations = lambda: scripts
    if ready >= 0:
        os.read(ready, 1)
    app = durably.Durably(folder / "runs.db")
    app.count_runs()
    app.close()


def check_version(folder: Path, newer: bool) -> None:
    """An older durably rejects the newer file; its own is sound."""
    database = folder / "runs.db"
    if not newer:
        if found := check(database, is_idle=True):
            raise Finding("\n".join(found))
        return
    try:
        durably.Durably(database)
    except durably.SchemaError:
        return
    raise Finding("an older durably has opened a newer file")


def lost(deadline: float, seed: int) -> Counter[str]:
    """The file moved, deleted or replaced under processes that work on it."""
    return alone(drive_lost, deadline, seed)


def drive_lost(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Take the file away; each process must notice, and what was moved must be whole."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live_until_it_is_lost, place), rng, counts)
        herd.grow(2)
        ledger = Ledger(place)
        patience = time.monotonic() + GRACE_S
        while len(ledger.acknowledged("started")) < len(herd.alive):
            if time.monotonic() > patience:
                raise Finding("a process does not start")
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.5))  # whatever they do then
        how = rng.choice(["folder moved", "deleted", "replaced"])
        elsewhere = folder / f"{number}-elsewhere"
        if how == "folder moved":
            place.rename(elsewhere)
        elif how == "deleted":
            for path in place.glob("runs.db*"):
                path.unlink(missing_ok=True)
        else:
            elsewhere.mkdir()
            in_child(open_it, elsewhere, False, -1)
            (elsewhere / "runs.db").replace(place / "runs.db")
        for pid in list(herd.alive):
            if (status := status_of(pid)) != 0:
                raise Finding(f"a process whose file was {how} has ended with {status}")
            herd.alive.remove(pid)
        herd.end()
        counts[how] += 1
        if how == "folder moved":
            check_what_is_left(elsewhere, counts)
        # What took its place is not looked at: with the old log beside it SQLite takes that for
        # its own, which nobody can keep it from.
        counts["checks passed"] += 1
    return counts


def live_until_it_is_lost(folder: Path, seed: int, ending: int) -> None:
    """Work until a call says that the file is lost; then stop and close."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    app = durably.Durably(
        folder / "runs.db", jobs=[ledger.job(0.002)], heartbeat_interval=0.05, stale_threshold=0.5
    )
    app.start()
    ledger.leave("started")
    patience = time.monotonic() + GRACE_S
    try:
        while True:
            run = app.jobs["work"].trigger(concurrency_key=rng.choice([None, "one"]))
            app._supervisor.file.check_in_place()
            ledger.leave("triggered", run.id)
            if time.monotonic() > patience:
                raise Finding("nobody has noticed that the file is gone")
            time.sleep(0.002)
    except durably.DatabaseLostError:
        app.stop()
        app.close()


def clocks(deadline: float, seed: int) -> Counter[str]:
    """Three processes whose wall clocks jump by an hour, either way, again and again."""
    return alone(drive_clocks, deadline, seed)


def drive_clocks(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """No jump takes a run from its owner, and no duration is negative."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live_with_a_bad_clock, place), rng, counts)
        herd.grow(3)
        time.sleep(rng.uniform(1.0, 3.0))
        killed = rng.random() < 0.5
        if killed:
            herd.kill(herd.any())
            time.sleep(0.5)
        herd.end()
        reasons = {reason for _, reason in Ledger(place).acknowledged("recovered")}
        if not reasons <= ({"dead"} if killed else set()):
            raise Finding(f"a clock has cost runs their owner: {reasons}")
        if negative := Ledger(place).acknowledged("negative"):
            raise Finding(f"durations that are negative: {negative}")
        check_what_is_left(place, counts)
        counts["clock jumps"] += len(Ledger(place).acknowledged("jumped"))
    return counts


def live_with_a_bad_clock(folder: Path, seed: int, ending: int) -> None:
    """A life whose wall clock is set forward or back every few readings."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    now_us = Clock.now_us
    shift = 0

    def read(clock: Clock) -> int:
        nonlocal shift
        if rng.random() < 0.02:
            shift = rng.choice([-HOUR_US, 0, HOUR_US])
            ledger.leave("jumped")
        return now_us(clock) + shift

    def look(event: durably.Event) -> None:
        duration = getattr(event, "duration", None)
        if duration is not None and duration < 0:
            ledger.leave("negative", event.type, duration)

    Clock.now_us = read  # type: ignore[method-assign]
    options = {"heartbeat_interval": 0.1, "stale_threshold": 2.0}
    live(folder, seed, ending, pause_s=0.005, listener=look, **options)
