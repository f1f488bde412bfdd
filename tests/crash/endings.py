"""Scripts that end at any moment of an engine's life: by themselves, by an error, by Ctrl-C."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crash.driving import GRACE_S, Finding, alone, until
from crash.workload import Ledger, check_what_is_left

import durably

SCRIPT = "from crash.endings import script; script()"

# How the main thread ends, and the exit status that this must give.
ENDINGS = {"last line": 0, "exception": 1, "sys.exit": 3, "SIGTERM": 4}


def exits(deadline: float, seed: int) -> Counter[str]:
    """The interpreter ends while another thread is anywhere in an engine's life."""
    return alone(drive_exits, deadline, seed)


def drive_exits(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """End one script after the other; look at what is left after a few."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        for _ in range(rng.randrange(3, 8)):
            ending = rng.choice(list(ENDINGS))
            process = started(place, "exit", ending, rng.randrange(2**32))
            if ending == "SIGTERM":
                time.sleep(rng.uniform(0, 0.4))
                process.send_signal(signal.SIGTERM)
            expect(process, {ENDINGS[ending]}, f"a script that ends by {ending}")
            counts[f"exits by {ending}"] += 1
            if time.monotonic() >= deadline:
                break
        check_what_is_left(place, counts)
    return counts


def interrupts(deadline: float, seed: int) -> Counter[str]:
    """Ctrl-C at any moment of a script, sometimes twice in a row."""
    return alone(drive_interrupts, deadline, seed)


def drive_interrupts(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Interrupt one script after the other; look at what is left after a few."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        for _ in range(rng.randrange(3, 8)):
            process = started(place, "interrupt", "-", rng.randrange(2**32))
            time.sleep(rng.choice([0.02, 0.1, 0.4]) * rng.random())
            process.send_signal(signal.SIGINT)
            counts["SIGINT"] += 1
            if rng.random() < 0.5:
                time.sleep(rng.choice([0, 0.001, 0.01, 0.1]) * rng.random())
                process.send_signal(signal.SIGINT)
                counts["second SIGINT"] += 1
            expect(process, {-signal.SIGINT, 0}, "a script that was interrupted")
            if time.monotonic() >= deadline:
                break
        check_what_is_left(place, counts)
    return counts


def started(folder: Path, how: str, ending: str, seed: int) -> subprocess.Popen[str]:
    """A script that has come to the point at which its engine's life begins."""
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT, folder, how, ending, str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise Finding(f"a script did not even begin: {process.communicate()}")
    return process


def expect(process: subprocess.Popen[str], statuses: set[int], what: str) -> None:
    """Wait for its end, which must come by itself and with one of these statuses."""
    try:
        said = process.communicate(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        said = process.communicate()
        raise Finding(f"{what} hangs:\n{said[1]}") from None
    if process.returncode not in statuses or "Fatal Python error" in said[1]:
        raise Finding(f"{what} has ended with {process.returncode}:\n{''.join(said)}")


def script() -> None:
    """What the process does, in its main thread."""
    folder, how, ending, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    if how == "interrupt":
        print("ready", flush=True)
        walk(Path(folder), rng, rng.randrange(1, 6))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    threading.Thread(target=wander, args=(Path(folder), rng), daemon=rng.random() < 0.5).start()
    print("ready", flush=True)
    while ending == "SIGTERM":
        # Not for ever: a signal right before a wait is only seen after it.
        threading.Event().wait(0.05)
    time.sleep(rng.choice([0.01, 0.1, 0.4]) * rng.random())
    if ending == "exception":
        raise ValueError("as it was told")
    if ending == "sys.exit":
        sys.exit(3)


def wander(folder: Path, rng: random.Random) -> None:
    """Walk until the main thread has ended."""
    try:
        while threading.main_thread().is_alive():
            walk(folder, rng, 1)
    except durably.EngineClosedError:
        return
    except RuntimeError as exc:
        # What Python says to those who start a thread at the end.
        if "shutdown" not in str(exc) and "can't start new thread" not in str(exc):
            raise


def walk(folder: Path, rng: random.Random, rounds: int) -> None:
    """Go through the life of an engine, in one way or another."""
    ledger = Ledger(folder)
    for _ in range(rounds):
        app = durably.Durably(
            folder / "runs.db",
            jobs=[ledger.job(rng.choice([0, 0.002, 0.01]))],
            max_workers=rng.choice([1, 3]),
            synchronous=rng.choice(["full", "normal"]),
        )
        ledger.listen(app)
        rng.choice(WALKS)(app, ledger, rng)


def trigger(app: durably.Durably, ledger: Ledger, rng: random.Random) -> list[durably.Run]:
    """Some runs, acknowledged."""
    runs = []
    for _ in range(rng.randrange(1, 4)):
        runs.append(app.jobs["work"].trigger(concurrency_key=rng.choice([None, "one"])))
        ledger.leave("triggered", runs[-1].id)
    return runs


def _with(app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    with app:
        runs = trigger(app, ledger, rng)
        if rng.random() < 0.5:
            app.wait(runs[0], timeout=GRACE_S)


def _start_and_stop(app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 4)):
        app.start()
        list(app.as_completed(trigger(app, ledger, rng)[:1], timeout=GRACE_S))
        app.stop(interrupt=rng.random() < 0.5)
    app.close()


def _until_idle(app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    trigger(app, ledger, rng)
    app.run_until_idle(max_runs=rng.choice([None, 2]))
    app.close()


def _one_by_one(app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    trigger(app, ledger, rng)
    while app.process_one():
        continue
    app.close()


def _never_closed(app: durably.Durably, ledger: Ledger, rng: random.Random) -> None:
    app.start()
    trigger(app, ledger, rng)
    _kept.append(app)


# What the end of the interpreter has to deal with.
_kept: list[durably.Durably] = []

Walk = Callable[[durably.Durably, Ledger, random.Random], None]
WALKS: list[Walk] = [_with, _start_and_stop, _until_idle, _one_by_one, _never_closed]
