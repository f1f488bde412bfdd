"""The engine: assembles the parts, owns their lifecycle, and has a method per public call."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict, TypeVar, Unpack, overload

from durably import events
from durably._platform.clock import Clock, from_datetime
from durably._platform.interrupts import held_back, is_from_signal, raise_if_signal
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, limited
from durably._platform.safe_repr import short_repr
from durably._platform.spawning import refuse_unguarded_open, refuse_unguarded_start
from durably.client.handles import JobHandle, JobHandles, ReadOnly
from durably.client.query import (
    NameFilter,
    Reader,
    StatusFilter,
    filters,
    labels_of,
    run_id_of,
    several,
)
from durably.client.submit import NOT_GIVEN, Triggering
from durably.client.subscribe import Subscription
from durably.client.wait import OnLog, OnProgress, Waiter
from durably.codec import Codec
from durably.emitter import Emitter, ErrorHandler, Listener, types_of
from durably.errors import (
    ConflictError,
    DatabaseError,
    DurablyError,
    EngineClosedError,
    ForkedError,
    NotFoundError,
    RunCancelled,
    ValidationError,
)
from durably.events import Event, LogWritten, RunDeleted, RunRetried
from durably.execution.current_run import Services, tell_worker_error
from durably.execution.step_log import stored_line
from durably.job_registry import JobRegistry, missing_job, origins_of
from durably.jobs import Job, check_job, job_list
from durably.models import LogEntry, Run, RunStatus, StepRecord
from durably.settings import Duration, OnDuplicateStep, Settings, age, optional_timeout, seconds
from durably.store.rows import RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.store import SqliteStore
from durably.worker.exit import at_exit
from durably.worker.flusher import Flusher
from durably.worker.leaving import Notice, is_leaving, say_abandoned, say_left
from durably.worker.supervisor import Supervisor

if TYPE_CHECKING:
    import cattrs

log = logging.getLogger("durably")

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", bound=Event)
L = TypeVar("L", bound=Callable[[Any], object])
AnyRun = Run[Any, Any]

_SHRINK_PAGES = 2000


class _TriggerOptions(TypedDict, total=False):
    """The options of a trigger, as type checkers see them."""

    idempotency_key: str | None
    concurrency_key: str | None
    coalesce: bool
    retry_failed: bool
    labels: dict[str, str] | None


class _WaitOptions(_TriggerOptions, total=False):
    """Those of a trigger that is waited for."""

    timeout: Duration | None
    on_progress: OnProgress | None
    on_log: OnLog | None


class Plugin(Protocol):
    """What ``app.use`` takes.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        """Told in messages; an engine takes one plugin of a name."""

    def install(self, app: Durably) -> object:
        """Add what this plugin adds. Called once, by ``app.use``."""


class Durably:
    """An engine on one database file: registers jobs, records runs, executes them.

    Opening makes the file if it is missing and brings its tables up to date; nothing is executed
    before ``start()``, a ``with`` block, ``run_until_idle()`` or ``process_one()``. Every method
    may be called from any thread of the process that opened the engine.

    Besides the errors that its own documentation names, each call but ``close()`` raises
    ``EngineClosedError`` after ``close()``, each one ``ForkedError`` in a forked child, and each
    one but ``stop()`` and ``close()`` ``DatabaseLostError`` once the file is not in its place any
    more. Whatever reads or writes the database raises ``DatabaseError`` where that cannot be
    done; a lock of another program is waited for up to 30 s before.

    Args:
        path: the SQLite file. One file per application; processes share it.
        jobs: job specs to register.
        max_workers: how many runs execute at once in this process, 1 to 1000.
        heartbeat_interval: seconds (or a ``timedelta``) between two signs of life.
        stale_threshold: seconds (or a ``timedelta``) after which a run whose process hangs is
            taken over; at least twice the heartbeat interval. A dead process is noticed at once.
        poll_interval: seconds (or a ``timedelta``) that a run triggered by another process
            waits at most to be noticed; most are noticed within milliseconds.
        synchronous: ``"full"``: a checkpoint survives power loss. ``"normal"``: it survives a crash
            of the process, and the newest ones may be lost at power loss, in order.
        preserve_steps: keep the checkpoints of completed runs.
        retain_runs: delete terminal runs older than this in the background: seconds, a
            ``timedelta``, or ``"30d"``, ``"24h"``, ``"60m"``. ``None`` keeps them.
        converter: a ``cattrs.Converter`` with hooks for types of your own.
        on_duplicate_step: what a step name does that is used twice in one execution of a run:
            ``"error"`` raises ``DuplicateStepError``; ``"reuse"`` returns the first one's result
            and warns with ``DuplicateStepWarning``. A job may have its own.
        persist_logs: store the lines of ``step.log`` in the database, for ``get_logs`` and for
            other processes. Lines are buffered, and stored a few times a second and before their
            run ends.

    Raises:
        ValidationError: an option or a job spec is not acceptable; the message names it.
        SchemaError: the file is another program's or a newer durably's, or another has changed
            its schema; it is left as it is.
        DatabaseError: the file cannot be opened, is mounted alone (a container that was given the
            file and not its folder), is another user's, or is locked for over 30 s.
        ConflictError: the script opens it unguarded while a child process of ``multiprocessing``
            imports the script; ``if __name__ == "__main__":`` is missing.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "durably.db",
        *,
        jobs: Iterable[Job[Any, Any]] = (),
        max_workers: int = 4,
        heartbeat_interval: Duration = 5.0,
        stale_threshold: Duration = 30.0,
        poll_interval: Duration = 1.0,
        synchronous: str = "full",
        preserve_steps: bool = True,
        retain_runs: Duration | str | None = None,
        converter: cattrs.Converter | None = None,
        on_duplicate_step: OnDuplicateStep = "error",
        persist_logs: bool = False,
    ) -> None:
        refuse_unguarded_open()
        settings = Settings(
            max_workers=max_workers,
            heartbeat_interval=heartbeat_interval,
            stale_threshold=stale_threshold,
            poll_interval=poll_interval,
            synchronous=synchronous,  # type: ignore[arg-type]  # the validator makes sure
            preserve_steps=preserve_steps,
            retain_runs=retain_runs,
            on_duplicate_step=on_duplicate_step,
            persist_logs=persist_logs,
        )
        self._clock = Clock()
        codec = Codec(converter)
        self._registry = JobRegistry(codec)
        self._lock = threading.RLock()  # guards the handles
        self._closing = threading.RLock()  # held while closing, so that others wait for its end
        self._handles: dict[str, JobHandle[Any, Any]] = {}
        self._plugins: set[str] = set()
        self._are_logs_persisted = False
        # Before the file is touched: a bad spec must not leave one behind.
        specs = job_list(jobs)
        for spec in specs:
            self._registry.add(spec)
        self._pid = os.getpid()
        self._is_closed = False
        self._has_closed = False
        self._is_abandoned = False
        self._emitter = Emitter(self._clock)
        self._store = SqliteStore(
            Database(path, synchronous=settings.synchronous, clock=self._clock)
        )
        try:
            self._assemble(settings, codec)
            at_exit(self._close_at_exit)
        except BaseException:
            # Nobody would have an engine to close.
            self._store.close()
            raise
        if settings.persist_logs:
            self._persist_logs()
        for spec in specs:
            self._handles[spec.name] = JobHandle(spec.name, self._triggering)

    def _assemble(self, settings: Settings, codec: Codec) -> None:
        changes = self._changes = self._store.changes
        self._flusher = Flusher(
            self._store,
            codec=codec,
            emitter=self._emitter,
            changes=changes,
            clock=self._clock,
            on_error=self._on_flusher_error,
        )
        services = Services(
            store=self._store,
            codec=codec,
            emitter=self._emitter,
            changes=changes,
            clock=self._clock,
            buffers=self._flusher,
            preserve_steps=settings.preserve_steps,
            # No owner is taken for hung before it has missed two beats.
            longest_doubt_s=2 * settings.heartbeat_interval,
            on_duplicate_step=settings.on_duplicate_step,
        )
        self._reader = Reader(self._store, codec, self._registry)
        self._supervisor = Supervisor(settings, services, self._registry, self._flusher, labels_of)
        self._waiter = Waiter(
            store=self._store,
            reader=self._reader,
            emitter=self._emitter,
            changes=changes,
            worker=self._supervisor,
            clock=self._clock,
        )
        self._triggering = Triggering(
            store=self._store,
            codec=codec,
            emitter=self._emitter,
            changes=changes,
            registry=self._registry,
            reader=self._reader,
            waiter=self._waiter,
            worker=self._supervisor,
            clock=self._clock,
            check=self._check,
        )

    def __repr__(self) -> str:
        state = (
            "closed" if self._is_closed else "started" if self._supervisor.is_started else "open"
        )
        return f"<Durably {self._store.path!r} {state}>"

    def _check(self) -> None:
        """Refuse what no call may do: use a closed engine, the parent's, or a lost file."""
        self._check_usable()
        self._supervisor.check_in_place()

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this engine on {self._store.path!r} was opened by the parent process; open a "
                "new one in the child"
            )
        if self._is_closed or self._is_abandoned:
            raise EngineClosedError(
                f"this engine on {self._store.path!r} is closed; open a new one"
            )

    def _on_flusher_error(self, exc: BaseException, context: str) -> None:
        self._flusher.report(exc, f"the {context} thread")

    # -- lifecycle -----------------------------------------------------------------------

    def start(self) -> Self:
        """Recover what dead processes left behind, then start to claim and execute runs.

        Returns the engine, once the threads run. Idempotent; an engine that was stopped starts
        again.

        Raises:
            DatabaseError: the database cannot be written now; the engine is as it was.

        .. versionadded:: 0.1.0
        """
        self._check()
        refuse_unguarded_start()
        self._supervisor.start()
        return self

    def init(self) -> Self:
        """The same as ``start()``.

        .. versionadded:: 0.1.0
        """
        return self.start()

    def stop(self, *, interrupt: bool = False, timeout: Duration | None = None) -> None:
        """Claim nothing more, wait for the runs in progress, then end the threads. Idempotent.

        Args:
            interrupt: stop each run at its next step boundary and put it back to pending. The
                step in progress finishes and keeps its checkpoint.
            timeout: seconds (or a ``timedelta``) to wait at most for the runs. A listener that one
                of durably's own threads is calling is waited for in any case.

        Raises:
            WaitTimeoutError: the runs did not end in time. They go on, and nothing new
                is claimed until ``start()``.
            ConflictError: called from inside a job or a listener.

        .. versionadded:: 0.1.0
        """
        timeout_s = optional_timeout(timeout)
        if self._is_abandoned:
            return
        self._check_usable()
        self._stop(interrupt=bool(interrupt), timeout_s=timeout_s)

    def _stop(
        self,
        *,
        interrupt: bool,
        timeout_s: float | None = None,
        verb: str = "stop",
        is_last: bool = False,
    ) -> None:
        """Stop; a signal that ends a wait for steps which is one already leaves them behind.

        Args:
            is_last: whether nothing comes after it, so that the logger says how to leave.
        """
        again = is_leaving()
        notice = Notice(self._supervisor.active, interrupt=interrupt, again=again)
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
        """Leave what is inside a step: no call waits for it any more, and nothing else is possible.

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
            log.warning("an engine that was left could not be closed: %s", exc)

    def close(self) -> None:
        """Stop, waiting for the runs in progress, then close every connection. Idempotent.

        Raises:
            ConflictError: called from inside a job or a listener.

        .. versionadded:: 0.1.0
        """
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this engine on {self._store.path!r} was opened by the parent process, which "
                "closes it"
            )
        if self._is_abandoned:
            return
        if not self._is_closed:
            self._stop(interrupt=False, verb="close")
        elif self._supervisor.is_inside:
            # Whoever is closing it may be waiting for this very job.
            return
        self._close()

    def _close(self) -> None:
        # One limit for all that it still writes: a process that is stopped may have the lock.
        with held_back(), self._closing, limited(self._clock, BUSY_TIMEOUT_S):
            if self._has_closed:
                return
            self._is_closed = True
            try:
                self._flusher.flush_lines()
            finally:
                try:
                    self._supervisor.close()
                finally:
                    self._store.close()
                    # Only now: a signal may have interrupted a first call.
                    self._has_closed = True
                    self._changes.notify()

    def _close_at_exit(self) -> None:
        """What the end of the interpreter calls: stop at the next step boundary and close."""
        if os.getpid() != self._pid or self._is_closed or self._is_abandoned:
            return
        with held_back():
            self._stop(interrupt=True, is_last=True)
            self._close()

    def __enter__(self) -> Self:
        try:
            with held_back():
                self.start()
        except KeyboardInterrupt:
            # Nobody will call __exit__.
            self._close_at_exit()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid or self._is_closed or self._is_abandoned:
            return
        with held_back():
            interrupt = kind is not None
            executed = [active.id for active in self._supervisor.active()]
            try:
                if not interrupt:
                    self._supervisor.check_in_place()
                    if self._supervisor.takes_runs:
                        self._drain()
            except BaseException as raised:
                interrupt, kind = True, type(raised)
                executed = [active.id for active in self._supervisor.active()]
                raise
            finally:
                self._stop(interrupt=interrupt, is_last=True)
                if kind is not None:
                    self._say_left(kind, executed)
                self._close()

    def _say_left(self, cause: type[BaseException], executed: list[str]) -> None:
        """Say how many runs wait for the next start."""
        try:
            briefs = self._store.briefs(executed)
            pending = filters(RunStatus.PENDING, list(self._handles))
            waiting = self._store.count_runs(pending)
        except DatabaseError:
            return  # what the block was left by says more
        put_back = sum(brief.status == RunStatus.PENDING for brief in briefs.values())
        say_left(cause, put_back, waiting)

    def _drain(self) -> None:
        try:
            self._supervisor.drain()
        except EngineClosedError:
            # By another thread, which has waited for the runs in progress.
            if not self._is_closed:
                raise

    def run_until_idle(self, *, max_runs: int | None = None) -> int:
        """Execute pending runs on the pool until none can be claimed; for cron.

        Blocks until then. Works on an engine that was not started, and first recovers what dead
        processes left. Ctrl-C stops the runs at their next step boundary and puts them back.

        Args:
            max_runs: how many runs to execute at most; the count is exact on an engine that was
                not started.

        Returns:
            How many runs were executed.

        Raises:
            ConflictError: called from inside a job or a listener; or another call of this
                executes runs of an engine that was not started, and one of the two has
                *max_runs*.
            ValidationError: *max_runs* is no count.

        .. versionadded:: 0.1.0
        """
        if max_runs is not None and (
            isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 0
        ):
            raise ValidationError(
                f"max_runs must be an int that is not negative, not {short_repr(max_runs)}"
            )
        self._check()
        refuse_unguarded_start()
        try:
            return self._supervisor.run_until_idle(max_runs)
        except BaseException:
            if self._supervisor.is_abandoned:
                self._abandon()
            raise

    def process_one(self) -> bool:
        """Claim and execute one run in the calling thread; ``False`` if there was none.

        First recovers what dead processes left. A debugger works in it. What the job raises
        stays in the run; only a Ctrl-C goes on to the caller, and puts the run back to pending.

        .. versionadded:: 0.1.0
        """
        self._check()
        refuse_unguarded_start()
        return self._supervisor.process_one()

    # -- jobs ----------------------------------------------------------------------------

    def register(self, job: Job[P, R]) -> JobHandle[P, R]:
        """Make a job known to this engine and return its handle.

        The same function again, as when a notebook cell runs again, replaces the old one.

        Raises:
            ConflictError: another function is registered under that name.
            ValidationError: it is no job, or its types cannot be structured.

        .. versionadded:: 0.1.0
        """
        self._check()
        with self._lock:
            self._registry.add(job)
            handle: JobHandle[P, R] = self._handles.setdefault(
                job.name, JobHandle(job.name, self._triggering)
            )
        # Pending runs of this job may have waited for it.
        self._changes.offer()
        return handle

    @ReadOnly
    def jobs(self) -> Mapping[str, JobHandle[Any, Any]]:
        """The handles by job name; read-only.

        Indexing it with a name that is not registered raises a ``KeyError`` that lists those that
        are.

        .. versionadded:: 0.1.0
        """
        self._check()
        with self._lock:
            return JobHandles(dict(self._handles))

    def get_job(self, name: str) -> JobHandle[Any, Any] | None:
        """The handle of that job, if it is registered.

        .. versionadded:: 0.1.0
        """
        return self.jobs.get(name)

    # -- triggering ----------------------------------------------------------------------

    @overload
    def trigger(
        self,
        job: Job[P, R],
        payload: P | Mapping[str, Any] | None = ...,
        **options: Unpack[_TriggerOptions],
    ) -> Run[P, R]: ...
    @overload
    def trigger(
        self, job: str, payload: Any = ..., **options: Unpack[_TriggerOptions]
    ) -> AnyRun: ...
    def trigger(
        self,
        job: Job[Any, Any] | str,
        payload: Any = NOT_GIVEN,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: bool = False,
        retry_failed: bool = False,
        labels: dict[str, str] | None = None,
    ) -> AnyRun:
        """Record a run of a job and return it, as ``JobHandle.trigger`` does.

        Args:
            job: a job, which is registered if it is not, or the name of a registered one.

        The other arguments are those of ``JobHandle.trigger``.

        Raises:
            NotFoundError: no job of that name is registered.
            ConflictError: another function is registered under the job's name.
            ValidationError: the payload, a key or a label is not acceptable. Nothing is stored.
            DatabaseError: the database cannot be written now. Nothing is stored.

        .. versionadded:: 0.2.0
        """
        return self._handle_of(job, "trigger").trigger(
            payload,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            retry_failed=retry_failed,
            labels=labels,
        )

    @overload
    def trigger_and_wait(
        self,
        job: Job[P, R],
        payload: P | Mapping[str, Any] | None = ...,
        **options: Unpack[_WaitOptions],
    ) -> Run[P, R]: ...
    @overload
    def trigger_and_wait(
        self, job: str, payload: Any = ..., **options: Unpack[_WaitOptions]
    ) -> AnyRun: ...
    def trigger_and_wait(
        self,
        job: Job[Any, Any] | str,
        payload: Any = NOT_GIVEN,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        on_log: OnLog | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: bool = False,
        retry_failed: bool = False,
        labels: dict[str, str] | None = None,
    ) -> AnyRun:
        """Record a run of a job, block until it has completed, and return it.

        Args:
            job: a job, which is registered if it is not, or the name of a registered one.

        The other arguments are those of ``JobHandle.trigger_and_wait``.

        Raises:
            RunFailedError: the run failed; it has ``.run``.
            RunCancelledError: the run was cancelled; it has ``.run``.
            WaitTimeoutError: the time is over.
            NoWorkerError: no timeout was given, and nothing is there to execute the run.

        And those of ``trigger``.

        .. versionadded:: 0.2.0
        """
        return self._handle_of(job, "trigger_and_wait").trigger_and_wait(
            payload,
            timeout=timeout,
            on_progress=on_progress,
            on_log=on_log,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            retry_failed=retry_failed,
            labels=labels,
        )

    # Items of any type: mypy finds no P for a list that mixes payloads and triggers.
    @overload
    def batch_trigger(self, job: Job[P, R], items: Iterable[Any]) -> list[Run[P, R]]: ...
    @overload
    def batch_trigger(self, job: str, items: Iterable[Any]) -> list[AnyRun]: ...
    def batch_trigger(self, job: Job[Any, Any] | str, items: Iterable[Any]) -> list[AnyRun]:
        """Record a run of a job for each item in one transaction: all of them or none.

        Args:
            job: a job, which is registered if it is not, or the name of a registered one.
            items: payloads, or ``Trigger(payload, idempotency_key=..., ...)``.

        Returns:
            The runs in the order of the items.

        Raises:
            NotFoundError: no job of that name is registered.
            ConflictError: another function is registered under the job's name.
            ValidationError: an item is not acceptable; the message says which. Nothing is stored.
            DatabaseError: the database cannot be written now. Nothing is stored.

        .. versionadded:: 0.2.0
        """
        return self._handle_of(job, "batch_trigger").batch_trigger(items)

    def _handle_of(self, job: Job[Any, Any] | str, call: str) -> JobHandle[Any, Any]:
        """Return the handle of a job, which is registered if it is not, or of a name."""
        self._check()
        if isinstance(job, str):
            with self._lock:
                handle = self._handles.get(job)
            if handle is None:
                raise NotFoundError(missing_job(job, self._handles))
            return handle
        check_job(job, f"{call} takes a Job or its name; it was given")
        with self._lock:
            if self._registry.get(job.name) is job:
                return self._handles[job.name]
        return self.register(job)

    # -- runs ----------------------------------------------------------------------------

    def get_run(self, run_id: str | AnyRun) -> AnyRun | None:
        """The run of that id as it stands now, ``None`` if there is none.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._reader.find(run_id_of(run_id))

    def get_runs(
        self,
        *,
        status: StatusFilter = None,
        job_name: NameFilter = None,
        labels: dict[str, str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[AnyRun]:
        """The runs that fit, newest first.

        Args:
            status: one or several; an empty list matches nothing.
            job_name: one or several; an empty list matches nothing.
            labels: all of them must match.
            limit: how many at most.
            offset: how many to leave out first.

        Raises:
            ValidationError: an unknown status, or a negative number.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._reader.find_many(filters(status, job_name, labels), limit, offset)

    def count_runs(
        self,
        *,
        status: StatusFilter = None,
        job_name: NameFilter = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """How many runs fit; the filters are those of ``get_runs``.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._reader.count(filters(status, job_name, labels))

    def get_steps(self, run: AnyRun | str) -> list[StepRecord]:
        """What is stored of the run's steps, one record a name, in the order of their index.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._reader.steps_of(run_id_of(run))

    def get_logs(self, run: AnyRun | str) -> list[LogEntry]:
        """The persisted log lines of the run; empty without ``persist_logs=True``.

        Oldest first. Lines written in this process before the call are among them.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        self._flusher.flush_lines()
        return self._reader.logs_of(run_id_of(run))

    def wait(
        self,
        run: Run[P, R] | str,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        on_log: OnLog | None = None,
    ) -> Run[P, R]:
        """Block until the run has completed, executed by whatever process, and return it.

        Args:
            timeout: seconds (or a ``timedelta``) to wait at most; the run goes on after that.
            on_progress: called in this thread with each new ``Progress``.
            on_log: called in this thread with each ``LogEntry`` of a run executed in this
                process, or of any whose logs are persisted.

        Raises:
            RunFailedError: the run failed; it has ``.run``.
            RunCancelledError: the run was cancelled; it has ``.run``.
            NotFoundError: there is no such run, or it was deleted meanwhile.
            WaitTimeoutError: the time is over.
            NoWorkerError: no timeout was given, and nothing is there to execute the run.

        .. versionadded:: 0.1.0
        """
        timeout_s = optional_timeout(timeout)
        self._check()
        run_id = run_id_of(run)
        watch = self._waiter.watch(on_progress, on_log)
        try:
            self._waiter.skip_progress(run_id, watch)
            return self._waiter.wait(run_id, timeout_s, watch)
        finally:
            watch.close()

    def as_completed(
        self, runs: Iterable[AnyRun | str], *, timeout: Duration | None = None
    ) -> Iterator[AnyRun]:
        """Yield each of the runs when it has ended, failed and cancelled ones too.

        Args:
            runs: runs or their ids; of a mapping its keys, as ``concurrent.futures`` has it.
            timeout: seconds (or a ``timedelta``) for all of them together.

        Raises:
            NotFoundError: there is no such run, or it was deleted meanwhile.
            WaitTimeoutError: the time is over.
            NoWorkerError: no timeout was given, and nothing is there to execute a run.

        .. versionadded:: 0.1.0
        """
        timeout_s = optional_timeout(timeout)
        self._check()
        keys = runs.keys() if isinstance(runs, Mapping) else runs
        return self._waiter.as_completed(
            [run_id_of(run) for run in several(keys, "runs")], timeout_s
        )

    def retry(self, run: Run[P, R] | str) -> Run[P, R]:
        """Put a failed or cancelled run back to pending, its completed steps kept.

        Raises:
            ConflictError: the run is in another state.
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row = self._store.retry(run_id, self._clock.now_us())
            self._changes.offer()
            self._emitter.emit(RunRetried, **_fields(row))
        return self._reader.run_of(row)

    def adopt(self, run: Run[P, R] | str) -> Run[P, R]:
        """Make this engine's job continue a pending run that other code has begun, and return it.

        A run with checkpoints is left to the code that made them, which is known by the module (of
        a script by the file's name) and the qualified name of the job's function. After this it
        belongs to the job of its name that is registered here, and is claimed like any other run.

        Raises:
            ConflictError: the run is not pending.
            NotFoundError: there is no such run, or its job is not registered.

        .. versionadded:: 0.2.0
        """
        self._check()
        run_id = run_id_of(run)
        job = self._registry.require(self._store.get_run(run_id).job_name)
        origin = next(iter(origins_of(job)), None)
        row = self._store.adopt(run_id, origin, self._clock.now_us())
        self._changes.offer()
        return self._reader.run_of(row)

    def retrigger(self, run: Run[P, R] | str) -> Run[P, R]:
        """Record a fresh run with the payload, labels and concurrency key of a terminal one.

        Raises:
            ConflictError: the run has not ended.
            NotFoundError: there is no such run, or its job is not registered.
            ValidationError: the payload does not fit today's job.

        .. versionadded:: 0.1.0
        """
        self._check()
        row = self._store.get_run(run_id_of(run))
        if row.completed_at_us is None:
            raise ConflictError(
                f"run {row.id} is {row.status} and cannot be triggered anew: wait for its end"
            )
        return self._triggering.retrigger(row)

    def cancel(self, run: AnyRun | str) -> None:
        """Cancel a pending or running run; when this returns it is cancelled in the database.

        A job that is inside a step leaves it in its own time; the step's result is not kept.

        Raises:
            ConflictError: the run has ended.
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row = self._store.cancel(run_id, self._clock.now_us())
            self._supervisor.stop_run(row, RunCancelled)
            # The next one with its concurrency key, if it was pending.
            self._changes.offer()
            self._emitter.emit(events.RunCancelled, **_fields(row))

    def delete_run(self, run: AnyRun | str) -> None:
        """Delete a terminal run with its steps, logs and labels.

        Raises:
            ConflictError: the run has not ended, or its job is still inside a step.
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row = self._store.delete(run_id)
            self._changes.notify()
            self._emitter.emit(RunDeleted, **_fields(row))

    def purge_runs(
        self, *, older_than: timedelta | str | float | datetime, limit: int = 500
    ) -> int:
        """Delete terminal runs that ended long ago, and give their space back.

        Args:
            older_than: a duration before now (a ``timedelta``, seconds, or ``"30d"``, ``"24h"``,
                ``"60m"``), or an aware ``datetime``.
            limit: how many at most, the oldest first; call again for more.

        Returns:
            How many were deleted.

        Raises:
            ValidationError: *older_than* is no age, or *limit* no count. Nothing is deleted.

        .. versionadded:: 0.1.0
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 2**63:
            raise ValidationError(
                f"limit must be an int that is not negative, not {short_repr(limit)}"
            )
        before_us = _instant_us(older_than, self._clock)
        self._check()
        deleted = self._store.purge(before_us, limit)
        if deleted:
            self._changes.notify()
            self._shrink()
        for row in deleted:
            self._emitter.emit(RunDeleted, **_fields(row))
        return len(deleted)

    def _shrink(self) -> None:
        try:
            self._store.shrink(_SHRINK_PAGES)
        except DatabaseError as exc:
            raise_if_signal(exc)
            # The runs are gone all the same, and their space is used again by later ones.
            tell_worker_error(self._emitter, exc, "giving space back")

    # -- events --------------------------------------------------------------------------

    @overload
    def on(self, type: type[E], listener: Callable[[E], object]) -> Callable[[], None]: ...
    @overload
    def on(self, type: type[E]) -> Callable[[Callable[[E], T]], Callable[[E], T]]: ...
    @overload
    def on(self, type: str, listener: Listener) -> Callable[[], None]: ...
    @overload
    def on(self, type: str) -> Callable[[L], L]: ...
    def on(self, type: str | type[Event], listener: Listener | None = None) -> Any:  # noqa: A002 - the contract's name
        """Call *listener* with each event of that type, or of every type with ``"*"``.

        The type is a name or a class of ``durably.events``, which also types the listener:
        ``app.on(RunFailed, listener)``. A base class, such as ``StepEvent``, stands for all
        classes below it.

        Listeners are called in the thread where it happened, after the change is committed. Their
        exceptions never harm a run; see ``on_error``.

        Returns:
            A function that ends the subscription; without *listener*, a decorator.

        Raises:
            ValidationError: an unknown type; the message lists the known ones.

        .. versionadded:: 0.1.0
        """
        self._check()
        if listener is not None:
            return self._emitter.on(type, listener)
        types_of(type)

        def decorate(function: L) -> L:
            self._emitter.on(type, function)
            return function

        return decorate

    def on_error(self, handler: ErrorHandler) -> Callable[[], None]:
        """Call ``handler(exception, event)`` for each exception of a listener.

        With no handler they are logged.

        Returns:
            A function that ends the subscription.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._emitter.on_error(handler)

    def subscribe(self, run: AnyRun | str) -> Subscription:
        """The run's events from now on, ending after its terminal one; a context manager.

        A run that is terminal already yields that one event. Of a run that another process
        executes only the terminal event comes.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        run_id = run_id_of(run)
        return Subscription(
            run_id,
            store=self._store,
            reader=self._reader,
            emitter=self._emitter,
            changes=self._changes,
            is_local=lambda: (
                self._supervisor.is_executing(run_id) or self._emitter.is_announcing(run_id)
            ),
            check=self._supervisor.check_job,
        )

    def use(self, plugin: Plugin) -> None:
        """Install a plugin, which has ``name`` and ``install(app)``.

        Raises:
            ValidationError: it is no plugin.
            ConflictError: one of that name is installed.

        .. versionadded:: 0.1.0
        """
        self._check()
        name = getattr(plugin, "name", None)
        if not isinstance(name, str) or not callable(getattr(plugin, "install", None)):
            raise ValidationError(
                f"a plugin needs a name and install(app), unlike {short_repr(plugin)}"
            )
        if isinstance(plugin, type):
            raise ValidationError(
                f"{short_repr(plugin)} is a class; use an object of it: use(...())"
            )
        if name in self._plugins:
            raise ConflictError(f"a plugin named {name!r} is installed already")
        plugin.install(self)
        self._plugins.add(name)

    def _persist_logs(self) -> None:
        """Store each line that is written from now on."""
        if not self._are_logs_persisted:
            self._are_logs_persisted = True
            self._emitter.on("log:write", self._persist_log)

    def _persist_log(self, event: LogWritten) -> None:
        """Buffer the line of *event*, to be stored soon."""
        self._flusher.logged(stored_line(event, self._supervisor.owner_number or 0))


def _fields(row: RunRow) -> dict[str, Any]:
    return {"run_id": row.id, "job_name": row.job_name, "labels": labels_of(row)}


def _instant_us(older_than: object, clock: Clock) -> int:
    if isinstance(older_than, datetime):
        if older_than.utcoffset() is None:
            raise ValidationError("older_than must be an aware datetime; this one has no time zone")
        return from_datetime(older_than)
    if isinstance(older_than, str):
        older_than = age(older_than, "older_than")
    past_s = seconds(older_than, "older_than")
    if past_s < 0:
        raise ValidationError(f"older_than={older_than!r} must not be negative")
    # An instant before the beginning of time is before every run's end.
    return max(0, clock.now_us() - int(past_s * 1e6))
