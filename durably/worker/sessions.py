"""Sessions: runs that are open in the program that executes them, and leave it when it says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from durably._platform.ids import Ids
from durably._platform.signals import deliver
from durably.errors import RunInterrupted
from durably.execution.services import Services
from durably.execution.session_run import SessionRun
from durably.store.outcome import Completed, Interrupted, Outcome
from durably.store.rows import Beginning, NewRun, RunRow
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.lifecycle import Lifecycle
from durably.worker.run_log import RunLog
from durably.worker.settling import Settled, Settling

if TYPE_CHECKING:
    from durably.store.api import Store

# How often a thread that waits for a session checks for owners that have died.
_RECOVER_S: Final = 0.25

# What a session returns.
_NOTHING: Final = Completed("null", None)


class Sessions:
    """Open and leave sessions in one engine. Usable from any thread.

    Args:
        check_file: raises ``DatabaseLostError`` if the file is not in its place.
        recover: puts back what dead owners executed; returns how many runs that were.
    """

    def __init__(
        self,
        *,
        services: Services,
        store: Store,
        claimer: Claimer,
        runs: CurrentRuns,
        settling: Settling,
        run_log: RunLog,
        lifecycle: Lifecycle,
        check_file: Callable[[], None],
        recover: Callable[..., int],
    ) -> None:
        self.services = services
        self.path = store.path
        self._store = store
        self._claimer = claimer
        self._runs = runs
        self._settling = settling
        self._run_log = run_log
        self._lifecycle = lifecycle
        self._check_file = check_file
        self._recover = recover
        self._ids = Ids(services.clock)
        self._lock = threading.Lock()  # guards the list
        self._open: list[OpenSession] = []

    def open(
        self,
        name: str,
        key: str | None,
        labels: str,
        *,
        is_fresh: bool,
        on_taken: Callable[[Beginning], float],
    ) -> OpenSession:
        """Create or continue a session, and need the engine's threads until it is left.

        Args:
            labels: JSON text.
            is_fresh: whether it is created in any case.
            on_taken: called while the session is open somewhere else, in this process or another
                one. Returns for how many seconds to wait for a change at most, or raises.
        """
        new = NewRun(self._ids.new(), name, "null", labels, idempotency_key=key, kind="session")
        need = object()
        self._lifecycle.lease(need)
        try:
            run = self._begin(new, is_fresh=is_fresh, on_taken=on_taken)
        except BaseException:
            self._lifecycle.release(need)
            raise
        run.check_file = self._check_file
        session = OpenSession(self, run, need)
        with self._lock:
            self._open.append(session)
        self._run_log.started(run)
        return session

    def _begin(
        self, new: NewRun, *, is_fresh: bool, on_taken: Callable[[Beginning], float]
    ) -> SessionRun:
        while True:
            self._check_file()
            # The program goes on with it at once, and its first line says from where.
            self._recover(lambda row: _is_of(row, new))
            beginning, run = self._claimer.begin(new, "{}", is_fresh=is_fresh)
            if isinstance(run, SessionRun):
                return run
            self._wait(beginning, on_taken(beginning))

    def _wait(self, taken: Beginning, left_s: float) -> None:
        """Wait until the session may be free, *left_s* seconds at most."""
        clock = self.services.clock
        deadline = clock.monotonic() + left_s
        while (left_s := deadline - clock.monotonic()) > 0:
            deliver()
            seen = self._store.changes.snapshot()
            brief = self._store.brief(taken.row.id)
            if brief is None or brief.owner != taken.row.owner or self._recover():
                return
            self._store.changes.wait(seen, min(left_s, _RECOVER_S))

    def put_all_back(self) -> None:
        """Leave all sessions as they are, to be opened again."""
        with self._lock:
            sessions = tuple(self._open)
        for session in sessions:
            session.put_back()

    def leave(self, session: OpenSession, need: object, outcome: Callable[[], Outcome]) -> Settled:
        """Store how a session was left."""
        from durably.execution.run_execution import settled  # noqa: PLC0415 - where first needed

        run = session.run
        try:
            left = outcome()
            run.end()
            stored = self._settling.settle(run, settled(run, left), lambda: None)
            stored.emit()
        finally:
            run.is_over = True
            run.let_go()
            self._runs.leave(run)
            with self._lock:
                self._open.remove(session)
            self._lifecycle.release(need)
        return stored


def _is_of(row: RunRow, new: NewRun) -> bool:
    """Return whether a run is the session that is to be continued."""
    key = row.idempotency_key
    return (row.kind, row.job_name, key) == ("session", new.job_name, new.idempotency_key)


class OpenSession:
    """A session that is open in this process, until it is left. Usable from any thread.

    What leaves it returns whether it did, or ``False`` if the session was left before.

    Args:
        need: what needs the engine's threads until then.
    """

    def __init__(self, sessions: Sessions, run: SessionRun, need: object) -> None:
        self._sessions = sessions
        self._need = need
        self._lock = threading.Lock()  # guards the flag
        self._is_left = False
        self.run = run

    def complete(self) -> bool:
        """Store that the session has completed.

        Raises:
            DatabaseError: that could not be stored.
        """
        stored = self._leave(lambda: _NOTHING._replace(unused_steps=self.run.unused_steps()))
        if stored is not None:
            stored.require_stored()
        return stored is not None

    def fail(self, exc: BaseException) -> bool:
        """Store that *exc* has failed the session."""
        from durably.execution.run_execution import failed  # noqa: PLC0415 - where first needed

        return self._leave(lambda: failed(self.run, self._sessions.services, exc)) is not None

    def put_back(self) -> bool:
        """Leave the session as it is, to be opened again."""
        # So that nothing waits in a step of it any more, nor for a disk that is full.
        self.run.stop(RunInterrupted)
        return self._leave(Interrupted) is not None

    def _leave(self, outcome: Callable[[], Outcome]) -> Settled | None:
        with self._lock:
            if self._is_left:
                return None
            self._is_left = True
        return self._sessions.leave(self, self._need, outcome)
