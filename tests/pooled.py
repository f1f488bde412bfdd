"""Functions that maps of the tests execute in other processes, and the executors that they use."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import durably


def pool(method: str) -> ProcessPoolExecutor:
    """Return a pool of the standard library with two workers."""
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


def spawned() -> Executor:
    return pool("spawn")


def served() -> Executor:
    return pool("forkserver")


def forked() -> Executor:
    return pool("fork")


def with_loky() -> Executor:
    import loky  # noqa: PLC0415 - optional

    return loky.ProcessPoolExecutor(2)


def threaded() -> Executor:
    return ThreadPoolExecutor(2)


class InTheCaller(Executor):
    """An executor of an unknown kind, which executes at once."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


# Each kind of executor that has processes: its name, and what is passed.
EXECUTORS: dict[str, Any] = {
    "process": "process",
    "spawn": spawned,
    "forkserver": served,
    "fork": forked,
    "loky": with_loky,
}


class TwoArgumentsError(Exception):
    """Cannot be unpickled as it is: its constructor takes other arguments than it keeps."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class HoldsALockError(Exception):
    """Has an attribute that cannot be pickled."""

    def __init__(self, item: int) -> None:
        super().__init__(item, threading.Lock())
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return f"locked {self.args[0]}"


def double(item: int) -> int:
    return 2 * item


def pid_of(item: int) -> int:
    return os.getpid()


def meets(folder: str, item: int) -> int:
    """Wait until another process executes an item, too."""
    (Path(folder) / str(os.getpid())).touch()
    deadline = time.monotonic() + 30
    while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:  # noqa: PTH208 - quicker
        time.sleep(0.005)  # a condition polled with a deadline
    return os.getpid()


def fails(item: int) -> int:
    if item == 3:
        error = TwoArgumentsError(400, "bad")
        error.add_note("a note")
        raise error
    if item == 5:
        raise HoldsALockError(item)
    return item


class CannotBeLoaded:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def returns_what_cannot_travel(item: int) -> Any:
    return {2: threading.Lock(), 4: CannotBeLoaded()}.get(item, item)


def killed(item: int) -> int:
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def crashes(item: int) -> int:
    if item == 7:
        faulthandler.disable()  # a forked child has pytest's
        ctypes.string_at(0)
    return item


def never_ends(item: int) -> int:
    if item == 3:
        threading.Event().wait()
    return item


def asks_to_wait(folder: str) -> str:
    """Ask to be called again later, the first time."""
    path = Path(folder)
    if not path.exists():
        path.touch()
        raise durably.RetryAfter(0.01)
    return "done"


def fails_once(folder: str) -> str:
    path = Path(folder)
    if not path.exists():
        path.touch()
        raise TwoArgumentsError(503, "later")
    return "done"


def returns_or_raises(item: object) -> object:
    """Raise an exception, or one of two arguments; return a lock, or the item itself."""
    if item is threading.Lock:
        return threading.Lock()
    if item is TwoArgumentsError:
        raise TwoArgumentsError(400, "bad")
    if isinstance(item, BaseException):
        raise item
    return item


def starts_a_process(item: int) -> int | None:
    process = multiprocessing.Process(target=int)
    process.start()
    process.join()
    return process.exitcode


def forks(item: int) -> int:
    """Fork a child that returns as its parent does, and wait for it; return how it has ended."""
    child = os.fork()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else -1


def interrupts_itself(item: int) -> int:
    if item == 3:
        raise KeyboardInterrupt
    return item


def notes(folder: str, item: int) -> int:
    """Write that *item* begins, and in which process."""
    with (Path(folder) / "effects").open("a") as file:
        file.write(f"{item} {os.getpid()}\n")
    time.sleep(0.004)  # so that the parent is killed in the middle
    return item


def takes_part(folder: str, launch: int, size: int, item: int) -> str:
    """Write that *item* begins in that launch of its map, and when; return a text."""
    effects = os.open(f"{folder}/effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(effects, b"%d %d %d\n" % (launch, item, time.monotonic_ns()))
    os.close(effects)
    time.sleep(0.001 * (item % 5))  # so that it is in the middle of something
    return f"{item}" * size
