"""What a worker process owes to the process that has started it: to end with it.

The workers of a pool wait for work in a pipe that they hold both ends of themselves. When their
parent is killed, they wait for ever, or execute what is left in it beside the next start.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

# The end of the parent is noticed after so long at the latest where the system does not report it.
_POLL_S: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1

# The process that watches its parent: a forked copy of a worker does not yet.
_watching: list[int] = []


def end_with_parent(parent_pid: int, *, is_killed: bool = False) -> None:
    """End this process at once when its parent ends, also in the middle of an item.

    Does nothing in a process that *parent_pid* has not started, such as one of another host.

    Args:
        is_killed: whether the kernel kills it, even while code in C holds the interpreter's lock.
            Only if the thread that has started this process lives as long as this process.
    """
    if os.getpid() in _watching:
        return
    ppid = os.getppid()
    sentinel = None
    process = sys.modules.get("multiprocessing.process")
    parent = None if process is None else process.parent_process()
    if parent is not None and parent.pid == parent_pid:
        # With a fork server the parent of this process is that, which ends with the real one.
        sentinel = getattr(parent, "_sentinel", None)
        if sentinel is None and ppid != parent_pid:
            os._exit(1)  # it has ended before this process began
    elif ppid != parent_pid:
        return
    _watching[:] = [os.getpid()]
    if is_killed and sys.platform == "linux":
        _be_killed_with_parent()
    threading.Thread(
        target=_watch, args=(ppid, sentinel), name="durably-parent", daemon=True
    ).start()
    if os.getppid() != ppid or (sentinel is not None and _have_ended([sentinel])):
        os._exit(1)


def _be_killed_with_parent() -> None:
    import ctypes  # noqa: PLC0415 - where first needed
    import signal  # noqa: PLC0415 - where first needed

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch(ppid: int, sentinel: int | None) -> None:
    pidfd = _pidfd_of(ppid)
    ends = [each for each in (sentinel, pidfd) if each is not None]
    patience_s = _POLL_S if pidfd is None else None
    never = threading.Event()
    # After the descriptor is there: the id may be that of another process by now.
    while os.getppid() == ppid and not _have_ended(ends, patience_s):
        if not ends:
            never.wait(patience_s)
    os._exit(1)


def _pidfd_of(pid: int) -> int | None:
    """Return a descriptor that becomes readable at once when a process ends; Linux alone has it."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _have_ended(ends: Sequence[int], timeout_s: float | None = 0.0) -> bool:
    """Return whether a process has ended of which there is a descriptor, after so long at most."""
    if not ends:
        return False
    from multiprocessing.connection import wait  # noqa: PLC0415 - where first needed

    return bool(wait(ends, timeout_s))


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Make a Ctrl-C wait in processes that the calling thread starts, until they ignore it.

    One that came while they import their modules would end them with a traceback.
    """
    import signal  # noqa: PLC0415 - where first needed

    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_ctrl_c() -> None:
    """Make Ctrl-C do nothing in this process; the programs that it starts still end by it.

    Does nothing outside the main thread.
    """
    import signal  # noqa: PLC0415 - where first needed

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _do_nothing)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def _do_nothing(_number: int, _frame: FrameType | None) -> Any:
    pass


def kill(pid: int) -> None:
    """Kill a child of this process that was not waited for yet."""
    import signal  # noqa: PLC0415 - where first needed

    os.kill(pid, signal.SIGKILL)


def signal_name(exitcode: int) -> str:
    """Return how a process with that exit code has ended, such as ``SIGKILL``."""
    import signal  # noqa: PLC0415 - where first needed

    if exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"
