"""This engine's owner row in the database, and the lock whose holding proves that it is alive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from durably._platform.clock import Clock
from durably._platform.ids import Ids
from durably._platform.safe_repr import on_one_line
from durably.errors import DatabaseError
from durably.store.calls import BegunSteps
from durably.store.outcome import OwnerIdle
from durably.store.owners import OwnerLock

if TYPE_CHECKING:
    from durably.store.api import Store

logger = logging.getLogger("durably")

T = TypeVar("T")


class _Registration(NamedTuple):
    """The number of the row, and the lock."""

    owner: int
    lock: OwnerLock


class Ownership:
    """The owner row and the lock that an engine needs to own runs. Usable from any thread.

    They are made when the engine first executes a run.
    """

    def __init__(self, store: Store, clock: Clock, heartbeat_interval_s: float) -> None:
        self._store = store
        self._clock = clock
        self._ids = Ids(clock)
        self._heartbeat_interval_us = max(1, int(heartbeat_interval_s * 1e6))
        self._lock = threading.Lock()  # serialises registering
        self._registration: _Registration | None = None
        # The numbers of all owner rows that this engine has had.
        self.owners: tuple[int, ...] = ()

    @property
    def owner(self) -> int | None:
        """Return the number of the owner row, if there is one now."""
        registration = self._registration
        return None if registration is None else registration.owner

    def number(self) -> int:
        """Return the number of the owner row, 0 if there is none now."""
        return self.owner or 0

    @property
    def begun(self) -> BegunSteps | None:
        """Return where the steps that this engine is inside of are noted, if it has a lock."""
        registration = self._registration
        return None if registration is None else registration.lock.begun

    def register(self) -> int:
        """Make the owner row, unless there is one, and return its number."""
        with self._lock:
            if self._registration is None:
                self._registration = self._registered()
            return self._registration.owner

    def confirm(self) -> bool:
        """Make the owner row if there is none, or another engine has removed it meanwhile.

        Return whether it was made.
        """
        is_new = self.owner is None
        owner = self.register()
        if not is_new and not self._store.is_registered(owner):
            self.renew()
            is_new = True
        return is_new

    def renew(self) -> None:
        """Register again, after another engine found this one dead and removed its row."""
        with self._lock:
            old, self._registration = self._registration, self._registered()
            if old is not None:
                old.lock.release()

    def _registered(self) -> _Registration:
        token = self._ids.new()
        # The lock first: a row whose lock is free belongs to a dead engine.
        try:
            lock = self._store.lock_owner(token)
        except DatabaseError:
            self._store.check_in_place()  # that the file is gone says more
            raise
        try:
            owner = self._store.register_owner(
                token, self._heartbeat_interval_us, self._clock.now_us()
            )
        except BaseException:
            lock.release()
            raise
        self.owners = (*self.owners, owner)
        return _Registration(owner, lock)

    def announce_started(self) -> None:
        """Store that this engine claims runs by itself, for waiting threads of other processes."""
        self._store.set_owner_started(self.register(), is_started=True)

    def announce_stopped(self) -> None:
        """Store that this engine no longer claims runs, if the database can be written."""
        owner = self.owner
        if owner is not None:
            self._write_if_possible(lambda: self._store.set_owner_started(owner, is_started=False))

    def give_up(self, *, is_file_lost: bool) -> None:
        """Remove the row and release the lock."""
        with self._lock:
            registration, self._registration = self._registration, None
        if registration is None:
            return
        is_removed = is_file_lost
        try:
            if not is_removed:
                is_removed = bool(
                    self._write_if_possible(lambda: self._store.remove_owner(registration.owner))
                )
        finally:
            if is_removed:
                registration.lock.release()
            else:
                # The engine that finds the lock free recovers runs that could not be put back, and
                # removes a row that could not be removed.
                registration.lock.abandon()

    def put_back_strays(self) -> None:
        """Put back runs that were claimed and are not executed, if the database can be written."""
        owner = self.owner
        if owner is None:
            return
        try:
            if self._store.owns_running(owner):
                self._store.requeue(OwnerIdle(owner), self._clock.now_us())
        except DatabaseError as exc:
            # The engine that finds this one's lock free will put them back.
            logger.warning(
                "the runs that were claimed could not be put back (%s); other engines do that "
                "when this process has ended",
                on_one_line(str(exc)),
            )

    def _write_if_possible(self, verb: Callable[[], T]) -> T | None:
        """Call *verb*; log a failure, since other engines find out by themselves in the end."""
        try:
            return verb()
        except DatabaseError as exc:
            logger.warning(
                "the end of the engine could not be stored (%s); other engines notice it when "
                "this process has ended",
                on_one_line(str(exc)),
            )
            return None
