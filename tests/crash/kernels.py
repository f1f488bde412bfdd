"""Ctrl-C in a notebook: a kernel executes cells in one process and outlives every interrupt."""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from calls import names_of_threads
from crash.driving import GRACE_S, Finding, alone, fork, status_of, until
from crash.workload import Ledger, check_what_is_left

import durably

# What people type, in any order. ``app`` is an engine in whatever state the last cell left it.
CELLS = {
    "start": "app.start()",
    "trigger": "run = work.trigger(); ledger.leave('triggered', run.id)",
    "batch": "for each in work.batch_trigger([None] * 5): ledger.leave('triggered', each.id)",
    "wait": "app.start(); app.wait(work.trigger(), timeout=50)",
    "trigger_and_wait": "app.start(); work.trigger_and_wait(timeout=50)",
    "as_completed": "app.start(); list(app.as_completed(work.batch_trigger([None] * 3)))",
    "subscribe": "app.start(); list(app.subscribe(work.trigger()))",
    "run_until_idle": "work.trigger(); app.run_until_idle()",
    "process_one": "work.trigger(); app.process_one()",
    "stop": "app.stop()",
    "stop, interrupting": "app.stop(interrupt=True)",
    "restart": "app.stop(interrupt=True); app.start()",
    "close": "app.close(); app = opened()",
    "open again": "app = opened()",
    "look": "[app.get_steps(each) for each in app.get_runs(limit=20)]; app.count_runs()",
    "cancel and retry": "each = work.trigger(); app.cancel(each); app.retry(each)",
    "with": "with opened() as other: other.jobs['work'].trigger_and_wait(timeout=50)",
    "purge": "app.purge_runs(older_than=3600)",
}


def kernels(deadline: float, seed: int) -> Counter[str]:
    """Cells interrupted at random instants, once or twice; the engine is used on after each."""
    return alone(drive_kernels, deadline, seed)


def drive_kernels(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One kernel after the other."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        end = min(deadline, time.monotonic() + 10)
        if (status := status_of(fork(kernel, place, rng.randrange(2**32), end))) != 0:
            raise Finding(f"a kernel has ended with {status}")
        counts["kernels"] += 1
        for (cell,) in Ledger(place).acknowledged("interrupted"):
            counts[f"SIGINT in '{cell.replace('-', ' ')}'"] += 1
        counts["clear refusals"] += len(Ledger(place).acknowledged("refused"))
        check_what_is_left(place, counts)
    return counts


class Interrupted:
    """Executes code that a SIGINT hits after a random time, perhaps followed by another."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._left = 0
        self._pauses: list[float] = []
        signal.signal(signal.SIGALRM, self._press)
        signal.signal(signal.SIGINT, self._interrupt)

    def _press(self, *_: Any) -> None:
        if self._pauses:
            signal.setitimer(signal.ITIMER_REAL, self._pauses.pop())
        signal.raise_signal(signal.SIGINT)

    def _interrupt(self, *_: Any) -> None:
        if self._left:
            self._left -= 1
            raise KeyboardInterrupt

    def execute(self, cell: str, names: dict[str, Any]) -> int:
        """Execute a cell as a kernel does; how many interrupts there were."""
        rng = self._random
        code = compile(cell, "<cell>", "exec")
        most = rng.choice([1, 1, 2])
        first = rng.choice([0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]) * rng.uniform(0.1, 1)
        if most == 2:
            self._pauses = [rng.choice([0.0001, 0.001, 0.01, 0.05]) * rng.uniform(0.1, 1)]
        try:
            try:
                self._left = most
                signal.setitimer(signal.ITIMER_REAL, first)
                exec(code, names)
            finally:
                left, self._left = self._left, 0
        except KeyboardInterrupt:
            self._left = 0
        self._pauses = []
        signal.setitimer(signal.ITIMER_REAL, 0)
        return most - left


def kernel(folder: Path, seed: int, end: float) -> None:
    """Execute cells until the time is over, each interrupted; see that the engine goes on."""
    rng = random.Random(seed)
    ledger = Ledger(folder)

    def opened() -> durably.Durably:
        app = durably.Durably(folder / "runs.db", jobs=[ledger.job(0.002)], poll_interval=0.1)
        engines.append(app)
        ledger.listen(app)
        return app

    engines: list[durably.Durably] = []
    interrupted = Interrupted(rng)
    app = opened()
    names = {"opened": opened, "ledger": ledger, "app": app}
    while True:
        names["work"] = names["app"].jobs["work"]
        title = rng.choice(list(CELLS))
        try:
            hit = interrupted.execute(CELLS[title], names)
        except BaseException:
            print(f"the cell {title!r}: {CELLS[title]}")
            raise
        if hit:
            ledger.leave("interrupted", title.replace(" ", "-"))
            if hit > 1:
                ledger.leave("interrupted", "twice")
        try:
            names["app"] = used_on(names["app"], opened, ledger)
            # A second Ctrl-C while the end of a with block waits leaves its engine open.
            for each in engines:
                if each is not names["app"]:
                    each.close()
            engines[:] = [names["app"]]
        except BaseException as exc:
            exc.add_note(f"after the cell {title!r}, interrupted {hit} times")
            raise
        if time.monotonic() >= end:
            break
    names["app"].close()
    patience = time.monotonic() + GRACE_S / 4
    while left := names_of_threads():
        if time.monotonic() >= patience:
            raise Finding(f"threads are left: {left}")
        time.sleep(0.01)


def used_on(app: durably.Durably, opened: Any, ledger: Ledger) -> durably.Durably:
    """Use the engine; if it says that it is closed, a new one."""
    try:
        app.start()
        run = app.jobs["work"].trigger()
    except durably.EngineClosedError:
        ledger.leave("refused")
        app.close()
        app = opened()
        app.start()
        run = app.jobs["work"].trigger()
    ledger.leave("triggered", run.id)
    try:
        app.wait(run, timeout=20)
    except durably.DurablyError:
        traceback.print_exc()
        raise Finding(f"a run that was triggered after an interrupt: {app.get_run(run)}") from None
    return app
