"""The end of an engine: ``stop``, ``close``, the end of a ``with`` block and of the interpreter."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from durably._platform.clock import Clock
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, limited
from durably._platform.safe_repr import on_one_line
from durably._platform.signalled import is_after_ctrl_c
from durably._platform.signals import entered, is_from_signal
from durably.errors import (
    ConflictError,
    DatabaseError,
    DurablyError,
    EngineClosedError,
    ForkedError,
    RunsFailedError,
)
from durably.jobs.registry import JobRegistry
from durably.models import RunStatus
from durably.settings import Duration, check_bool, count, waitable
from durably.store.care import leaves_files
from durably.worker.leaving import Notice, say_abandoned, say_left
from durably.worker.state import State
from durably.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from durably.execution.live import Displays
    from durably.store.api import Store
    from durably.worker.live_engine import LiveEngine

logger = logging.getLogger("durably")


class Shutdown:
    """End an engine in order, and know whether it can still be used. Usable from any thread.

    Args:
        failed_unseen: returns the error of the runs that have failed unseen, which count as seen
            then; ``None`` if there are none.
        raise_failed: whether the end of a ``with`` block and of ``run_until_idle`` raise it.
    """

    def __init__(
        self,
        store: Store,
        supervisor: Supervisor,
        registry: JobRegistry,
        clock: Clock,
        failed_unseen: Callable[[], RunsFailedError | None],
        *,
        raise_failed: bool,
        is_beside: bool,
        session: str | None,
        displays: Displays,
    ) -> None:
        self._displays = displays
        # Whether it is opened for one call or a session, and so not replaced by another engine.
        self.is_beside = is_beside
        # The name of the session that the engine is opened for, if it is.
        self._session = session
        self._store = store
        self._supervisor = supervisor
        # The threads refer to it: while they run, the end of the interpreter finds this object,
        # also if nobody has the engine any more.
        supervisor.shutdown = self
        self._registry = registry
        self._clock = clock
        self._failed_unseen = failed_unseen
        self._raise_failed = raise_failed
        # Whether a with block was entered, and the error that its end is to raise.
        self._is_entered = False
        self._failed: RunsFailedError | None = None
        self._pid = os.getpid()
        self._closing = threading.RLock()  # held while closing, so that others wait for its end
        self._has_closed = False
        self._is_abandoned = False

    # -- whether the engine can be used --------------------------------------------------------

    def __repr__(self) -> str:
        what = "Durably" if self._session is None else f"Session {self._session!r} on"
        return f"<{what} {self.path!r} {self._word}>"

    @property
    def path(self) -> str:
        """Return the real path of the engine's file."""
        return self._store.path

    @property
    def file(self) -> object:
        """Return what identifies the engine's file."""
        return self._store.file

    @property
    def _word(self) -> str:
        if self._supervisor.state.is_closed:
            return "closed"
        return "started" if self._supervisor.state.is_started else "open"

    @property
    def is_open(self) -> bool:
        """Return whether the engine can still be used in this process."""
        # A signal may have ended its opening, which closes the file alone.
        return not self._is_over and not self._store.is_closed

    @property
    def _is_over(self) -> bool:
        return os.getpid() != self._pid or self._supervisor.state.is_closed

    def check(self) -> None:
        """Raise unless the engine can be used.

        Raises:
            EngineClosedError: it is closed.
            ForkedError: it was opened by the parent of this process.
            DatabaseLostError: the database file is not in its place any more.
        """
        self._check_usable()
        self._supervisor.file.check_in_place()

    def check_file(self) -> None:
        """Raise ``DatabaseLostError`` if the file, or one that belongs to it, is lost."""
        self._supervisor.file.check_in_place()
        self._supervisor.file.check_all()

    def is_on(self, path: str, file: object) -> bool:
        """Return whether the engine was opened with that path, or has that file open."""
        return self.path == path or (file is not None and self.file == file)

    def _check_usable(self) -> None:
        self._check_process("; open a new one in the child")
        if self._supervisor.state.is_closed:
            raise self._store.closing.error()

    def _check_process(self, advice: str) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this engine on {self._store.path!r} was opened by the parent process{advice}"
            )

    # -- calls ---------------------------------------------------------------------------------

    def stop(self, *, interrupt: bool, timeout_s: float | None) -> None:
        """Stop the engine, as ``Durably.stop`` does."""
        if not self._supervisor.lifecycle.is_abandoned:
            self._check_usable()
            self._stop(interrupt=interrupt, timeout_s=timeout_s)

    def close(self) -> None:
        """Stop and close the engine, as ``Durably.close`` does."""
        self._check_process(", which closes it")
        if self._supervisor.lifecycle.is_abandoned:
            return
        if not self._supervisor.state.is_closed:
            self._stop(interrupt=False, verb="close")
        elif self._supervisor.is_inside:
            # The thread that is closing the engine may be waiting for this very job.
            return
        self._close()

    def run_until_idle(
        self, max_runs: int | None, *, raise_failed: bool | None, max_wait: Duration = 0.0
    ) -> int:
        """Execute runs until none can be claimed, as ``Durably.run_until_idle`` does."""
        if max_runs is not None:
            count(max_runs, "max_runs", below=math.inf)
        max_wait_s = waitable(max_wait, "max_wait")
        raise_failed = self._raise_failed if raise_failed is None else raise_failed
        check_bool(raise_failed, "raise_failed")
        try:
            with self._displays.showing(self._live().view):
                executed = self._supervisor.run_until_idle(max_runs, max_wait_s)
        except BaseException:
            if self._supervisor.lifecycle.is_abandoned:
                self._abandon()
            raise
        failed = self._failed_unseen() if raise_failed else None
        if failed is not None:
            raise failed
        return executed

    @entered
    def at_exit(self) -> None:
        """Stop at the next step boundary and close, at the end of the interpreter."""
        if not self._is_over:
            self._end()

    def give_way(self) -> None:
        """Stop at the next step boundary and close, since a new engine takes this one's place."""
        self._store.closing.is_replaced = True
        try:
            self._end()
        finally:
            self._store.closing.is_replaced = self._is_over

    def refuse_inside(self) -> None:
        """Raise if the calling thread cannot wait for the end of this engine.

        Raises:
            ConflictError: it is inside a job or a listener of this engine.
        """
        if self._supervisor.is_inside:
            raise ConflictError(
                f"the code that opens {self.path!r} again is executed by an engine that this "
                "process has open on it; use that engine, or open another one with replace=False"
            )

    def _end(self) -> None:
        self._stop(interrupt=True, is_last=True)
        self._close()

    def enter(self, start: Callable[[], object]) -> None:
        """Start the engine at the beginning of a ``with`` block."""
        try:
            start()
            self._is_entered = True
        except BaseException as exc:
            if is_from_signal(exc):
                self.at_exit()  # Python does not call __exit__ then
            raise

    def leave(self, cause: type[BaseException] | None) -> None:
        """End the engine at the end of a ``with`` block.

        Args:
            cause: of the exception that has left the block. Without one all runs are executed
                first; after one they stop at their next step boundary.

        Raises:
            RunsFailedError: runs have failed unseen, and no exception has left the block.
        """
        if os.getpid() != self._pid:
            return
        is_left = cause is not None
        try:
            if not self._supervisor.state.is_closed:
                self._leave(cause)
        except BaseException:
            is_left = True
            raise
        finally:
            failed, self._failed = self._failed, None
            if failed is not None and is_left:
                # The exception that leaves the block is not to be hidden by this one.
                logger.error("%s", failed)
        if failed is not None and not is_left:
            raise failed

    def _leave(self, cause: type[BaseException] | None) -> None:
        interrupt = cause is not None
        executed = self._executed()
        try:
            if not interrupt:
                self._supervisor.file.check_in_place()
                if self._supervisor.state.takes_runs:
                    self._execute_all()
        except BaseException as exc:
            interrupt, cause = True, type(exc)
            executed = self._executed()
            raise
        finally:
            self._stop(interrupt=interrupt, is_last=True)
            if cause is not None:
                self._log_left(cause, executed)
            self._close()

    def _live(self) -> LiveEngine:
        from durably.worker.live_engine import LiveEngine  # noqa: PLC0415 - where first needed

        return LiveEngine(self._store, self._supervisor, self._registry, self._clock)

    # -- steps of the end ----------------------------------------------------------------------

    def _executed(self) -> list[str]:
        return [run.id for run in self._supervisor.current_runs()]

    def _execute_all(self) -> None:
        try:
            with self._displays.showing(self._live().view):
                self._supervisor.wait_until_idle()
        except EngineClosedError:
            # By another thread, which has waited for the runs in progress.
            if not self._supervisor.state.is_closed:
                raise

    def _stop(
        self,
        *,
        interrupt: bool,
        timeout_s: float | None = None,
        verb: str = "stop",
        is_last: bool = False,
    ) -> None:
        """Stop the threads; a signal that ends this wait for steps leaves them behind.

        Args:
            is_last: whether nothing follows, so that the log says how to leave.
        """
        again = is_after_ctrl_c()
        notice = Notice(
            self._supervisor.current_runs, self._clock, interrupt=interrupt, again=again
        )
        is_notified = again or (is_last and interrupt)
        try:
            self._supervisor.stop(
                interrupt=interrupt,
                timeout_s=timeout_s,
                verb=verb,
                on_wait=notice if is_notified else lambda: None,
            )
        except BaseException as exc:
            if is_notified and is_from_signal(exc):
                self._abandon()
            raise

    def _abandon(self) -> None:
        """Leave what is inside a step: no call waits for it any more, and none can use the engine.

        A thread that the interpreter does not wait for closes the rest when the step has ended. If
        the process ends before, its lock is free, and the next start continues the runs at once.
        """
        if not self._is_abandoned:
            self._is_abandoned = True
            say_abandoned()
            self._supervisor.abandon(self._close_behind)

    def _close_behind(self) -> None:
        try:
            self._supervisor.stop(interrupt=True, timeout_s=None)
            self._close()
        except DurablyError as exc:
            logger.warning(
                "an engine that was left could not be closed (%s); the next start continues its "
                "runs",
                on_one_line(str(exc)),
            )

    def _close(self) -> None:
        # One limit for everything that is still written: a stopped process may hold the lock.
        with self._closing, limited(self._clock, BUSY_TIMEOUT_S):
            if self._has_closed:
                return
            self._note_failed()
            self._supervisor.state.become(State.CLOSED)
            try:
                self._supervisor.flusher.flush_lines()
                self._sweep_files()
            finally:
                try:
                    self._supervisor.close()
                finally:
                    self._store.close()
                    # Only now: a signal may have interrupted a first call.
                    self._has_closed = True
                    self._store.changes.notify()

    def _sweep_files(self) -> None:
        """Remove the files that no result refers to: sessions have no thread that does so."""
        if self._supervisor.file.lost is not None:
            return
        with leaves_files():
            self._store.check_in_place()  # else the folder may be that of a new database
            self._store.sweep_files()

    def _note_failed(self) -> None:
        """Keep the error for the end of a ``with`` block, while its runs can be read."""
        if not self._is_entered or not self._raise_failed or self._supervisor.file.lost is not None:
            return
        try:
            self._failed = self._failed or self._failed_unseen()
        except DatabaseError as exc:
            logger.warning(
                "the runs that have failed unseen cannot be read (%s); get_runs(status='failed') "
                "returns them when the database can be read",
                on_one_line(str(exc)),
            )

    def _log_left(self, cause: type[BaseException], executed: list[str]) -> None:
        """Log how many runs wait for the next start."""
        from durably.worker.live_engine import pending  # noqa: PLC0415 - where first needed

        try:
            briefs = self._store.briefs(executed)
            waiting = pending(self._store, self._registry)
        except DatabaseError:
            return  # the exception that has left the block says more
        put_back = sum(brief.status == RunStatus.PENDING for brief in briefs.values())
        say_left(cause, put_back, waiting)
