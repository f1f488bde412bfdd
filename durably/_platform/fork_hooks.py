"""Prepare objects for a fork, and clean up after it.

A forked child inherits every descriptor, and with it every ``flock`` and open-file-description
lock, but none of the threads that would release them. So each object that has a descriptor or a
lock takes part in a fork: before it, after it in the parent, and after it in the child. Children
that :mod:`subprocess` starts do not run these hooks; their copies are closed at ``exec``, because
all descriptors are opened with ``O_CLOEXEC``.

A fork that Python does not perform (a C extension that calls ``fork`` itself) runs no hooks. Its
child keeps the locks for as long as it lives, which delays the recovery of a dead owner, and never
gives two owners one run.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class ForkParticipant:
    """An object that a fork must not interrupt in the middle of its work, or copy."""

    def before_fork(self) -> None:
        """Make the object idle; it stays idle until one of the hooks below has run.

        Does nothing if the object may be copied at any moment.
        """

    def after_fork_in_parent(self) -> None:
        """Make the object continue. Called only if :meth:`before_fork` returned."""

    def after_fork_in_child(self) -> None:
        """Close the copied descriptors and replace the locks, or make the object unusable.

        Called whether or not :meth:`before_fork` returned.
        """


class _Fork:
    """One fork in progress in one thread."""

    def __init__(self) -> None:
        # Strong references: the set of participants must be the same before and after.
        self.met: list[ForkParticipant] = []
        self.prepared: list[ForkParticipant] = []
        self.has_lock = False


# The process, as the hooks know it: for a check that is made too often for a call into the system.
pid = os.getpid()

# Guards _participants, and is held while a fork happens. Reentrant, so that a constructor may
# call watch_forks inside no_fork.
_lock = threading.RLock()
_participants: list[weakref.ref[ForkParticipant]] = []
# By thread: two threads may fork at once, and the second one waits inside a participant's hook.
_forks: Final[dict[int, _Fork]] = {}


def watch_forks(participant: ForkParticipant) -> None:
    """Run the hooks of *participant* at every fork from now on, as long as it lives.

    It is referenced weakly. Hooks before a fork run in the order of registration, hooks after it in
    the reverse order; one that raises does not keep the others from running, and its exception
    goes to ``sys.unraisablehook``. It may be called from any thread, also while another one forks:
    that fork then either includes the participant or has happened before this returns.
    """
    with _lock:
        _participants[:] = [ref for ref in _participants if ref() is not None]
        if all(ref() is not participant for ref in _participants):
            _participants.append(weakref.ref(participant))


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking during a block of microseconds.

    A descriptor must be opened and registered in one such block: a fork in between would leave the
    child with a copy that is never closed, and the lock on it would outlive this process. The block
    must take no lock that a :meth:`ForkParticipant.before_fork` takes, since a forking thread has
    those when it takes this one.
    """
    with _lock:
        yield


def _run_all(hooks: Iterable[Callable[[], None]]) -> None:
    first: BaseException | None = None
    for hook in hooks:
        try:
            hook()
        # A Ctrl-C that interrupts one hook must not keep the others from running.
        except BaseException as exc:  # noqa: BLE001
            first = first or exc
    if first is not None:
        # The interpreter cannot stop a fork; it passes this to sys.unraisablehook.
        raise first


def _before() -> None:
    fork = _forks[threading.get_ident()] = _Fork()

    def prepare(participant: ForkParticipant) -> None:
        fork.met.append(participant)
        participant.before_fork()
        fork.prepared.append(participant)

    def everyone() -> Iterator[Callable[[], None]]:
        # A participant may be registered while the hooks of the others wait for their locks. The
        # lock is taken from the check that finds no new participant until the fork is over, so
        # that none can be added in between; it is taken after all hooks, never before.
        while True:
            _lock.acquire()
            alive = [participant for ref in _participants if (participant := ref()) is not None]
            known = {id(participant) for participant in fork.met}
            newcomers = [participant for participant in alive if id(participant) not in known]
            if not newcomers:
                fork.has_lock = True
                return
            _lock.release()
            for participant in newcomers:
                yield lambda participant=participant: prepare(participant)  # type: ignore[misc]

    _run_all(everyone())


def _after_in_parent() -> None:
    fork = _forks.pop(threading.get_ident(), None)
    if fork is None:
        return
    if fork.has_lock:
        _lock.release()
    _run_all(participant.after_fork_in_parent for participant in reversed(fork.prepared))


def _after_in_child() -> None:
    global _lock, pid  # noqa: PLW0603
    pid = os.getpid()
    fork = _forks.pop(threading.get_ident(), None)
    # The other threads that were about to fork do not exist here. If a Ctrl-C kept this one from
    # taking the lock, the thread that has it does not exist here either.
    _forks.clear()
    _lock = threading.RLock()
    if fork is None:
        return
    _run_all(participant.after_fork_in_child for participant in reversed(fork.met))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
