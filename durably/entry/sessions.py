"""Sessions: a script or a notebook as it stands, with checkpoints."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, Unpack

from durably._platform.clock import Clock
from durably._platform.interactive import again, is_interactive, is_ipython
from durably._platform.signals import deliver, entered
from durably._platform.spawning import refuse_unguarded_open
from durably._platform.unhandled import add_note, add_stop_note, install_hooks
from durably.client import messages
from durably.client.arguments import checked_key, checked_labels
from durably.client.patience import Patience
from durably.entry.open_sessions import OpenHere, hand_over, open_here, patience_with
from durably.errors import (
    ConflictError,
    DatabaseError,
    DurablyError,
    EngineClosedError,
    ItemsFailedError,
    NotFoundError,
    SerializationError,
)
from durably.errors.failures import next_move, place_of_failure
from durably.execution.context import StepContext
from durably.execution.session_run import CellSteps
from durably.jobs import LONGEST_JOB_NAME
from durably.jobs.names import check_name
from durably.models import Run, RunStatus
from durably.rendering.bases import Shown
from durably.settings import (
    Duration,
    OnChange,
    Show,
    check_bool,
    check_on_change,
    check_show,
    optional_timeout,
)

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    from durably.entry.engine_options import EngineOptions
    from durably.entry.wiring import Parts
    from durably.worker.sessions import OpenSession

logger = logging.getLogger("durably")


_OTHERS_KEPT: Final = "The results of the other items are kept."


class Session(StepContext, Shown):
    """A script or a notebook as it stands: its steps, from ``durably.session()`` to ``close()``.

    Usable from any thread of the process that has opened it, and as a context manager, once.
    Leaving the block normally completes the session, and an exception fails it; Ctrl-C,
    ``SystemExit`` and every other exception that is not an ``Exception`` leave it pending, as
    ``close()`` and the end of the process do.

    .. versionadded:: 0.2.0
    """

    def __init__(
        self,
        parts: Parts,
        opened: OpenSession,
        show: Show,
        *,
        is_map: bool,
        on_change: OnChange | None,
    ) -> None:
        from durably.entry.live_session import LiveSession  # noqa: PLC0415 - where first needed

        sessions = parts.supervisor.sessions
        run, row = opened.run, opened.run.row
        super().__init__(
            run,
            sessions.services,
            on_duplicate_step=sessions.services.on_duplicate_step,
            on_change=on_change,
            nested=CellSteps() if is_ipython() else None,
        )
        self._parts = parts
        self._opened = opened
        self._lock = threading.Lock()  # guards the two below
        self._was_entered = False
        # The run as it was when the session was closed.
        self._closed: Run[None, None] | None = None
        run.on_interrupt = self._interrupted
        self._live = LiveSession(parts.displays, run, show, is_map=is_map)
        open_here[run.id] = self._here = OpenHere(
            sessions.path, row.job_name, row.idempotency_key, run.pid, self._hand_over
        )

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Session {self.job_name!r} {state}>"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"session {self.job_name!r} is open in this process; it can be used from all of its "
            "threads, but not be copied or pickled"
        )

    @property
    def _is_open(self) -> bool:
        return not self._run.is_over and self._run.pid == os.getpid()

    @entered
    def get_run(self) -> Run[None, None]:
        """Return the run of the session as it is now; after the end, as it was then.

        Raises:
            NotFoundError: it was deleted.
            ForkedError: this is the child of a fork.
            DatabaseError: the database cannot be read.

        .. versionadded:: 0.2.0
        """
        if self._closed is not None:
            self._run.refuse_forked_child()
            return self._closed
        run = self._read()
        if run is None:
            raise NotFoundError(f"the run of session {self.job_name!r} was deleted")
        return run

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes of the session's run by name, as ``Run.to_dict`` does.

        It raises the errors of ``get_run``.

        .. versionadded:: 0.2.0
        """
        return self.get_run().to_dict()

    def to_frame(self) -> pd.DataFrame:
        """Return the session's run as a pandas DataFrame with one row.

        Raises:
            ImportError: pandas is not installed.

        It also raises the errors of ``get_run``.

        .. versionadded:: 0.2.0
        """
        return self.get_run().to_frame()

    def _repr_html_(self) -> str:
        from durably.rendering.tables import card  # noqa: PLC0415 - where first needed

        try:
            return self.get_run()._repr_html_()
        except DurablyError as exc:
            return card([("name", self.job_name)], [], note=str(exc))

    @entered
    def close(self) -> None:
        """Leave the session as it is, to be opened again, and close its engine. Idempotent.

        When this returns the run is pending, with all its checkpoints, unless it had ended. A step
        that another thread is inside is not stored, and raises ``StopRun`` there.

        Raises:
            ConflictError: called from inside a step of the session.
            ForkedError: this is the child of a fork.

        .. versionadded:: 0.2.0
        """
        self._run.refuse_forked_child()
        self._leave(self._opened.put_back)

    def __enter__(self) -> Self:
        self._run.refuse_forked_child()
        with self._lock:
            was_entered, self._was_entered = self._was_entered, True
        if was_entered or not self._is_open:
            state = "is used in a with block already" if self._is_open else "is closed"
            raise ConflictError(f"session {self.job_name!r} {state}; open another one")
        return self

    @entered
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: object
    ) -> None:
        if self._run.pid != os.getpid():
            return  # the parent goes on with it
        if exc is None:
            if self._leave(self._opened.complete):
                self._say_unless_completed()
        elif isinstance(exc, Exception) and self._run.callers_signal_in(exc) is None:
            if self._leave(lambda: self._opened.fail(exc), exc):
                self._note_failure(exc)
        else:
            self._leave(self._opened.put_back, exc)
            if self._closed is not None and self._run.callers_signal_in(exc) is not None:
                add_stop_note(
                    exc,
                    messages.stopped(messages.StoppedIn(None), self._closed.completed_steps),
                )

    def _note_failure(self, exc: Exception) -> None:
        """Add to what has failed the session how to go on."""
        run = self._closed
        if run is None or run.status is not RunStatus.FAILED:
            return
        if isinstance(exc, ItemsFailedError):
            add_note(exc, f"{_OTHERS_KEPT} Fix the cause and {again()}: it executes what failed.")
        else:
            add_note(exc, f"{run.job_name} {place_of_failure(run)}. {next_move(run, again())}")

    def _interrupted(self, exc: BaseException, step: str) -> None:
        """Add to what a signal has raised in a step what is kept and how to go on."""
        try:
            run = self._read()
            place = messages.stopped_in(self._services.checkpoints, self._run.run_pk, step)
        except (DatabaseError, EngineClosedError):
            return  # the exception says enough
        if run is not None:
            add_stop_note(exc, messages.stopped(place, run.completed_steps))

    def _hand_over(self) -> None:
        """Leave the session to an object that is about to be made for it."""
        self._opened.run.is_handed_over = True
        self._leave(self._opened.put_back)

    def _leave(self, how: Callable[[], bool], exc: BaseException | None = None) -> bool:
        """Leave the session in that way, unless it was left, and close the engine.

        Return whether this call has left it.

        Args:
            exc: what has ended the block.
        """
        inside = self._opened.run.executed_step()
        if inside is not None:
            raise ConflictError(
                f"session {self.job_name!r} cannot be closed inside its step {inside!r}; close it "
                "after the step"
            )
        self._live.is_leaving = True
        try:
            is_left = how()
            self._keep_run()
        finally:
            if open_here.get(self.run_id) is self._here:  # else another object has it by now
                del open_here[self.run_id]
            self._live.end(self._closed, exc)
            self._parts.shutdown.close()
        return is_left

    def _read(self) -> Run[None, None] | None:
        self._parts.shutdown.check()
        return self._parts.client.reader.find(self.run_id)

    def _keep_run(self) -> None:
        """Read the run for calls after the end."""
        if self._closed is not None:
            return
        try:
            self._closed = self._read()
        except EngineClosedError:
            return  # the end of the interpreter has closed it, or another thread
        except DatabaseError as exc:
            logger.warning("the run of session %r cannot be read: %s", self.job_name, exc)

    def _say_unless_completed(self) -> None:
        run = self._closed
        if run is not None and run.status is not RunStatus.COMPLETED:
            logger.warning(
                "session %r has not completed, since it is %s; open it again to go on",
                self.job_name,
                run.status,
            )


@entered
def session(
    name: str,
    db: str | os.PathLike[str] | None = "durably.db",
    *,
    key: str | None = None,
    fresh: bool = False,
    timeout: Duration | None = 0,
    labels: dict[str, str] | None = None,
    show: Show = None,
    on_change: OnChange | None = None,
    **engine_options: Unpack[EngineOptions],
) -> Session:
    """Make a script or a notebook resumable as it stands, without a job.

    Returns the open session, a ``StepContext``: ``step.run(name, fn, ...)`` executes *fn* and
    stores its result, or returns what is stored. It is closed at the end of a ``with`` block, by
    ``close()``, or when the process ends. A session is a run, of the kind ``"session"``, that no
    engine ever claims: the calling program executes it. May be called from any thread.

    A session that has not completed is continued, with all its checkpoints, also if the process
    that had it open has died. After one that has completed a new one begins.

    Args:
        name: of the session; the ``job_name`` of its run.
        db: the SQLite file. ``None`` stands for the environment variable ``DURABLY_DB``, and
            without it for ``"durably.db"``.
        key: the ``idempotency_key`` of its run. There is one session for name and key: a completed
            one is continued too, returns what is stored and executes what is new.
        fresh: begin a new session in any case. The key passes to its run; the old run keeps its
            record.
        timeout: how long to wait, in seconds (or a ``timedelta``; ``None`` for ever), for another
            process that has the session open.
        labels: of its run, if it is created.
        show: whether to display progress, as for ``Durably``. In a notebook it is displayed below
            each cell that executes steps; at a prompt of Python's own it is not.
        on_change: what happens if a stored result was made by other code than today's: ``"warn"``,
            the default, uses it and warns (``CodeChangedWarning``), ``"ignore"`` uses it, and
            ``"redo"`` executes that step again and all that come after it, as
            ``StepContext.options`` describes. In a notebook, what comes after a step is the rest of
            its cell and the cells that were first executed after that one. ``"redo"`` is for pure
            computations: a program that sends mails would send them again.
        engine_options: as for ``Durably``.

    Raises:
        ConflictError: the session is open in another live process, or in this one. In an
            interactive session (a prompt, IPython, Jupyter) the new object takes it over from the
            old one of this process, which raises ``StopRun`` from then on.
        ValidationError: an argument is not acceptable.

    It also raises the errors of ``Durably()``.

    .. versionadded:: 0.2.0
    """
    return open_session(
        name,
        db,
        key=key,
        fresh=fresh,
        timeout=timeout,
        labels=labels,
        show=show,
        on_change=on_change,
        is_map=False,
        engine_options=engine_options,
    )


def open_session(
    name: str,
    db: str | os.PathLike[str] | None,
    *,
    key: str | None,
    fresh: bool = False,
    timeout: Duration | None = 0,
    labels: dict[str, str] | None = None,
    show: Show = None,
    on_change: OnChange | None = None,
    is_map: bool,
    engine_options: EngineOptions,
) -> Session:
    """Open a session, as ``session`` does.

    Args:
        is_map: whether it is one map, whose beginning and end are displayed as lines.
    """
    install_hooks()
    check_name(name, "a session's name", longest=LONGEST_JOB_NAME)
    check_bool(fresh, "fresh")
    check_show(show)
    check_on_change(on_change)
    patience = Patience(Clock(), optional_timeout(timeout))
    given = checked_key(key, "key"), checked_labels(labels)
    refuse_unguarded_open()
    from durably.entry.wiring import open_session_parts  # noqa: PLC0415 - where first needed

    parts = open_session_parts(name, db, **engine_options)
    made: Session | None = None
    try:
        sessions = parts.supervisor.sessions
        if fresh and is_interactive():
            hand_over(OpenHere(sessions.path, name, given[0], os.getpid(), lambda: None))
        opened = sessions.open(
            name,
            *given,
            is_fresh=fresh,
            on_taken=lambda taken: patience_with(taken, patience, is_map=is_map),
        )
        made = Session(parts, opened, show, is_map=is_map, on_change=on_change)
        made._live.begin()  # noqa: SLF001 - private to users alone
        deliver()
    except BaseException:
        if made is not None:
            made._live.end(None, None)  # noqa: SLF001
        parts.shutdown.close()
        raise
    return made
