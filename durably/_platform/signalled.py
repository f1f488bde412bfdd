"""Find exceptions which say that a signal, which stops this process as well, ended a child process.

Ctrl-C in a terminal goes to every process of the foreground group, and so does a service manager's
SIGTERM: the tool that a step runs dies of it some milliseconds before the engine has to stop.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from typing import Final

# SIGHUP, SIGINT and SIGTERM; POSIX has these numbers everywhere.
_SIGNALS: Final = (1, 2, 15)
# The status as ``subprocess`` reports it, as a shell does, and of a Windows program after Ctrl-C.
_STATUSES: Final = frozenset(
    {-number for number in _SIGNALS} | {128 + number for number in _SIGNALS} | {0xC000013A}
)
# Where an exception has the exit status: in subprocess, sh and torch, billiard, plumbum, GitPython.
_STATUS_NAMES: Final = ("returncode", "exit_code", "exitcode", "retcode", "status")


def leading_to(
    exc: BaseException, dealt_with: Iterable[BaseException] = ()
) -> Iterator[BaseException]:
    """Return *exc*, what it was raised because of, and what is in its group, each once.

    Args:
        dealt_with: exceptions that no longer count, and neither do their causes.
    """
    seen = {id(each) for each in dealt_with}
    unread = [exc]
    while unread:
        each = unread.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            unread += each.exceptions
        unread += [led for led in (each.__cause__, each.__context__) if led is not None]


def tells_of_signal(exc: BaseException, dealt_with: Iterable[BaseException] = ()) -> bool:
    """Return whether one of ``leading_to`` says that a signal ended a child process."""
    return any(_says_so(each) for each in leading_to(exc, dealt_with))


def is_after_ctrl_c() -> bool:
    """Return whether the calling code is executed because of a Ctrl-C, as a ``finally`` is."""
    exc = sys.exc_info()[1]
    return exc is not None and any(isinstance(e, KeyboardInterrupt) for e in leading_to(exc))


def _says_so(exc: BaseException) -> bool:
    # A pool of processes that has lost one; a pipe to a process that has ended.
    if isinstance(exc, BrokenExecutor | BrokenPipeError):
        return True
    # In a thread of durably's no Ctrl-C arrives: this one comes from a child process.
    if isinstance(exc, KeyboardInterrupt):
        return True
    if isinstance(exc, SystemExit):
        return type(exc.__cause__).__name__.endswith("RemoteTraceback")
    return any(_status(exc, name) in _STATUSES for name in _STATUS_NAMES)


def _status(exc: BaseException, name: str) -> int | None:
    try:
        status = getattr(exc, name, None)
    except Exception:  # noqa: BLE001 - an attribute of a user's exception may raise anything
        return None
    return status if isinstance(status, int) else None
