"""What the long forms share: a process of their own, forked lives, and what a finding is.

A kind of fault is a function ``run(deadline, seed) -> Counter[str]``: it makes the fault again and
again until ``time.monotonic()`` has reached *deadline*, with all randomness from *seed*, and says
what it did. What should not be raises. Each executes in a fresh process, which forks the lives
that are killed: a life costs some milliseconds, and the parent of the lives never has the
database open.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import durably

ROOT = Path(durably.__file__).parents[1]
TESTS = Path(__file__).parents[1]

# How long what was told to end may take for it. Only guards against hanging.
GRACE_S = 60.0

Drive = Callable[[Path, float, int], Counter[str]]


class Finding(AssertionError):  # noqa: N818 - what it is called
    """Something that durably promises did not hold."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed, unless something was found: then it is kept."""
    folder = Path(tempfile.mkdtemp(prefix="durably-soak-"))
    try:
        yield folder
    except Exception as exc:
        exc.add_note(f"what is left lies in {folder}")
        raise
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def alone(drive: Drive, deadline: float, seed: int) -> Counter[str]:
    """Execute ``drive(folder, deadline, seed)`` in a fresh process; give what it counted.

    Whatever it started is ended with it.
    """
    with scratch() as folder:
        said = folder / "said"
        counted = folder / "counted"
        what = (drive.__module__, drive.__qualname__, str(folder), str(deadline), str(seed))
        with said.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", "from crash.driving import main; main()", *what],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"},
            )
        try:
            status = child.wait(max(0.0, deadline - time.monotonic()) + 2 * GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGUSR1)  # every process says where it hangs
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
            raise Finding(f"it hangs:\n{_tail(said)}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if status != 0:
            raise Finding(f"it ended with {status}:\n{_tail(said)}")
        return Counter(json.loads(counted.read_text()))


def _tail(said: Path) -> str:
    return said.read_text(errors="replace")[-8000:]


def main() -> None:
    """What the fresh process does."""
    module, name, folder, deadline, seed = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    drive: Drive = getattr(import_module(module), name)
    counts = drive(Path(folder), float(deadline), int(seed))
    (Path(folder) / "counted").write_text(json.dumps(counts))


def fork(function: Callable[..., object], *args: Any) -> int:
    """Execute a function in a forked child, which ends with it; the child's pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function(*args)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    """Wait until a child has ended; its exit status, negative for a signal."""
    deadline = time.monotonic() + GRACE_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.5)  # for what it says about itself
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Finding(f"a process has not ended within {GRACE_S} s; where it hung is above")
        time.sleep(0.001)


def in_child(function: Callable[..., object], *args: Any) -> None:
    """Execute a function in a forked child, which must succeed."""
    status = status_of(fork(function, *args))
    if status != 0:
        raise Finding(f"{getattr(function, '__name__', function)} ended with {status}")


class Herd:
    """Forked lives, some of them alive at any time.

    Args:
        live: what a life does: called with a seed and a descriptor that reads as ended when the
            life is to end in good order.
    """

    def __init__(
        self, live: Callable[[int, int], object], rng: random.Random, counts: Counter[str]
    ) -> None:
        self._live = live
        self._random = rng
        self.counts = counts
        self.alive: list[int] = []
        self._ending, self._told = os.pipe()

    def grow(self, size: int) -> None:
        """Start lives until there are so many."""
        while len(self.alive) < size:
            self.alive.append(fork(self._life, self._random.randrange(2**32)))
            self.counts["processes started"] += 1

    def _life(self, seed: int) -> None:
        os.close(self._told)
        self._live(seed, self._ending)

    def any(self) -> int:
        """One of them."""
        return self._random.choice(self.alive)

    def kill(self, pid: int) -> None:
        """End one as a power button would."""
        os.kill(pid, signal.SIGKILL)
        status = status_of(pid)
        self.alive.remove(pid)
        if status != -signal.SIGKILL:
            raise Finding(f"a life had ended by itself with {status}")
        self.counts["SIGKILL"] += 1

    def stop(self, pid: int) -> None:
        """Stop one, wherever it is."""
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        self.counts["SIGSTOP"] += 1

    def go_on(self, pid: int) -> None:
        """Continue it."""
        os.kill(pid, signal.SIGCONT)

    def collect(self, expected: int) -> None:
        """Take leave of those that have ended by themselves, as is expected of them."""
        for pid in list(self.alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.alive.remove(pid)
                if os.waitstatus_to_exitcode(status) != expected:
                    raise Finding(f"a life has ended with {os.waitstatus_to_exitcode(status)}")
                self.counts[signal.Signals(-expected).name if expected < 0 else "ended"] += 1

    def end(self) -> None:
        """Make all end in good order, and wait for that."""
        os.close(self._told)
        for pid in self.alive:
            if (status := status_of(pid)) != 0:
                raise Finding(f"a life that was told to end has ended with {status}")
        self.alive.clear()
        os.close(self._ending)

    def end_by_force(self) -> None:
        """Kill all."""
        for pid in list(self.alive):
            self.kill(pid)
        os.close(self._told)
        os.close(self._ending)


class Threads:
    """Threads whose exceptions fail the process that joins them."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._raised: list[BaseException] = []

    def start(self, function: Callable[..., object], *args: Any) -> None:
        """Begin one."""
        thread = threading.Thread(target=self._call, args=(function, args), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _call(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except BaseException as exc:
            traceback.print_exc()
            self._raised.append(exc)

    def join(self) -> None:
        """Stop the threads and wait for them; raise the first exception of one."""
        self.over.set()
        for thread in self._threads:
            thread.join(GRACE_S)
            if thread.is_alive():
                raise Finding("a thread hangs")
        if self._raised:
            raise self._raised[0]


def until(deadline: float, seed: int) -> Iterator[random.Random]:
    """Randomness for one round after the other, at least one, until the time is over."""
    rng = random.Random(seed)
    while True:
        yield random.Random(rng.randrange(2**64))
        if time.monotonic() >= deadline:
            return
