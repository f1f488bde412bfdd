"""Which exceptions say that a signal which stops this process too has ended a child of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from typing import Final

import pytest

from durably._platform.signalled import tells_of_signal


def ended(status: object) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(status, ["tool"])  # type: ignore[arg-type]


def with_status(name: str, status: object) -> Exception:
    exc = RuntimeError("a tool ended")
    setattr(exc, name, status)
    return exc


def caught(first: BaseException, then: Callable[[BaseException], None]) -> BaseException:
    try:
        try:
            raise first
        except BaseException as exc:
            then(exc)
    except BaseException as exc:
        return exc
    raise AssertionError("then raises")


def from_it(exc: BaseException) -> None:
    raise RuntimeError("the conversion failed") from exc


def because_of_it(_: BaseException) -> None:
    raise RuntimeError("the conversion failed")


def from_none(_: BaseException) -> None:
    raise RuntimeError("the conversion failed") from None


def in_a_circle() -> BaseException:
    exc = RuntimeError("its own cause")
    other = RuntimeError("its effect")
    exc.__cause__, other.__cause__ = other, exc
    return exc


class OddError(Exception):
    def __getattr__(self, name: str) -> object:
        raise ValueError(name)


class _RemoteTraceback(Exception):  # noqa: N818 - as concurrent.futures calls it
    pass


def sent_back(exc: BaseException) -> BaseException:
    exc.__cause__ = _RemoteTraceback("in a child process")
    return exc


TELLING: Final = {
    "SIGINT": ended(-2),
    "SIGTERM": ended(-15),
    "SIGHUP": ended(-1),
    "SIGINT of a shell": ended(130),
    "SIGTERM of a shell": ended(143),
    "SIGHUP of a shell": ended(129),
    "Ctrl-C of Windows": ended(0xC000013A),
    "process pool": BrokenProcessPool(),
    "any pool": BrokenExecutor(),
    "thread pool": BrokenThreadPool(),
    "pipe to a process": BrokenPipeError(),
    "Ctrl-C in a child": sent_back(KeyboardInterrupt()),
    "Ctrl-C in a thread": KeyboardInterrupt(),
    "exit of a child": sent_back(SystemExit(1)),
    "exit_code": with_status("exit_code", -15),
    "exitcode": with_status("exitcode", -15),
    "retcode": with_status("retcode", -2),
    "status": with_status("status", 130),
    "cause": caught(ended(-2), from_it),
    "context": caught(ended(-2), because_of_it),
    "context that is not shown": caught(ended(-2), from_none),
    "second cause": caught(caught(ended(143), from_it), from_it),
    "group": ExceptionGroup("g", [ValueError(), ended(-2)]),
    "group in a group": BaseExceptionGroup(
        "g", [ValueError(), BaseExceptionGroup("h", [BrokenProcessPool()])]
    ),
    "cause of a member": ExceptionGroup("g", [ValueError(), caught(ended(-15), because_of_it)]),
    "cause of a group": caught(ExceptionGroup("g", [ended(-15)]), from_it),
}

SILENT: Final = {
    "failure": ended(1),
    "SIGKILL": ended(-9),
    "SIGSEGV": ended(139),
    "no status": ended(None),
    "status that is text": with_status("status", "-2"),
    "HTTP status": with_status("status", 503),
    "another error": ValueError("-2"),
    "timeout": subprocess.TimeoutExpired(["tool"], 2),
    "reset connection": ConnectionResetError(),
    "exit": SystemExit(130),
    "group of others": ExceptionGroup("g", [ValueError(), ended(1)]),
    "circle": in_a_circle(),
    "attributes that raise": OddError(),
}


@pytest.mark.parametrize("name", TELLING)
def test_it_says_that_a_signal_has_ended_a_child(name: str) -> None:
    """The exception says it itself, or what led to it does, or a member of its group."""
    assert tells_of_signal(TELLING[name])


@pytest.mark.parametrize("name", SILENT)
def test_it_says_nothing_of_a_signal(name: str) -> None:
    """A failure of its own, an end by another signal, what is not a status."""
    assert not tells_of_signal(SILENT[name])


@pytest.mark.parametrize("then", [from_it, because_of_it])
def test_what_was_dealt_with_says_nothing_any_more(then: Callable[[BaseException], None]) -> None:
    """Neither itself nor where it led to another one, or is in a group."""
    first = ended(-2)
    assert not tells_of_signal(first, [first])
    assert not tells_of_signal(caught(first, then), [first])
    assert not tells_of_signal(ExceptionGroup("g", [first]), [first])
    assert tells_of_signal(ExceptionGroup("g", [first, ended(-2)]), [first])
