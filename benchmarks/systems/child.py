"""What every measured program shares: how it is asked, what it measures, how it answers.

Only the standard library: the programs of other systems run in environments of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

Outcome = dict[str, Any]

# The parent finds the answer among whatever else a system prints.
ANSWER = "OUTCOME "
# Set while the parent counts syncs: the measured stretch is then marked by a sync of nothing.
MARKS = "BENCHMARK_MARKS"
# When the parent started this process, by the clock that all processes share.
SPAWNED = "BENCHMARK_SPAWNED_NS"
NO_SUCH_DESCRIPTOR = 999_999

SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


def main(workloads: dict[str, Callable[..., Outcome]]) -> None:
    """Do the workload that the command line names, and answer with its outcome."""
    outcome = workloads[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write(f"\n{ANSWER}{json.dumps(outcome)}\n")
    sys.stdout.flush()


def say(word: str) -> None:
    """Tell the parent a word."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def spawned_ns() -> int:
    """When this process was started, as ``time.monotonic_ns`` tells time."""
    return int(os.environ[SPAWNED])


def _proc(file: str, field: str) -> int:
    try:
        text = Path(f"/proc/self/{file}").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if words and words[0] == field), 0)


def written_bytes() -> int:
    """What this process has handed to the kernel to write so far."""
    return _proc("io", "wchar:")


def resident_mib() -> float:
    """How much memory this process has now."""
    return _proc("status", "VmRSS:") / 1024


def peak_mib() -> float:
    """The most memory that this process has had, since ``forget_peak`` if that was called."""
    return _proc("status", "VmHWM:") / 1024


def forget_peak() -> None:
    """Let the peak start from what there is now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Meter:
    """Measures the stretch inside the ``with`` block."""

    seconds = 0.0
    written = 0

    def __enter__(self) -> Self:
        _mark()
        self._written = written_bytes()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.written = written_bytes() - self._written
        _mark()


def _mark() -> None:
    if os.environ.get(MARKS):
        with contextlib.suppress(OSError):
            os.fsync(NO_SUCH_DESCRIPTOR)


class Countdown:
    """Becomes zero when so many jobs have been through."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()
        self._is_zero = threading.Event()

    def down(self) -> None:
        """One less."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._is_zero.set()

    def wait(self) -> None:
        """Block until it is zero."""
        if not self._is_zero.wait(600):
            raise RuntimeError(f"{self._left} jobs have not been through in ten minutes")


def until(condition: Callable[[], bool], pause_s: float = 0.0005) -> None:
    """Block until *condition* holds."""
    deadline = time.monotonic() + 600
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("what was waited for has not come about in ten minutes")
        time.sleep(pause_s)


class Spans:
    """When the jobs of one measurement began and ended their work."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def span(self) -> Iterator[None]:
        """Of one job."""
        started = time.perf_counter()
        yield
        self._spans.append((started, time.perf_counter()))

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end."""
        return max(end for _, end in self._spans) - min(begin for begin, _ in self._spans)


@contextlib.contextmanager
def spinning(threads: int) -> Iterator[None]:
    """So many threads beside that compute in Python all the time."""
    is_over = threading.Event()

    def spin() -> None:
        number = 0
        while not is_over.is_set():
            for _ in range(1000):
                number = (number * 7 + 3) % 1_000_003

    spinners = [threading.Thread(target=spin) for _ in range(threads)]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        is_over.set()
        for spinner in spinners:
            spinner.join()


def small(number: int) -> int:
    """A step whose result is next to nothing, so that the checkpoint is what is measured."""
    return number


def large(number: int, size: int) -> str:
    """A step whose result is text of so many characters."""
    return f"{number:09}".ljust(size, "x")


def die() -> None:
    """``SIGKILL``: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
