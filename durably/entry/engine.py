"""The engine: one short method for each public call."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from durably._platform.safe_repr import short_repr
from durably._platform.signals import door, let_through
from durably._platform.spawning import refuse_unguarded_open, refuse_unguarded_start
from durably._platform.unhandled import install_hooks
from durably.client.arguments import NOT_GIVEN, AnyRun, ReadOnly
from durably.client.calls import RunCalls
from durably.client.handles import JobHandle
from durably.errors import ConflictError, ValidationError
from durably.jobs import Job
from durably.models import Run
from durably.settings import (
    Duration,
    IfRunning,
    OnDuplicateStep,
    OnPayloadChange,
    Settings,
    Show,
    optional_timeout,
)

if TYPE_CHECKING:
    import cattrs

    from durably.client.run_options import RunOptions
    from durably.codec.own_forms import ValueCodec
    from durably.events import Event
    from durably.execution.emitter import ErrorHandler, Listener
    from durably.settings.retries import Retry

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", bound="Event")
L = TypeVar("L", bound=Callable[[Any], object])


class Plugin(Protocol):
    """What ``app.use`` takes.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        """Return the name that messages show; an engine accepts one plugin of each name."""

    def install(self, app: Durably) -> object:
        """Install the plugin in *app*. Called once, by ``app.use``."""


@door
class Durably(RunCalls):
    """An engine on one database file: registers jobs, stores runs, executes them.

    Opening it makes the file if it is missing and migrates its tables. Nothing is executed before
    ``start()``, a ``with`` block, ``run_until_idle()`` or ``process_one()``. Every method may be
    called from any thread of the process that opened the engine.

    Besides the errors that its own documentation names, each call but ``close()`` raises
    ``EngineClosedError`` after ``close()``. Each call raises ``ForkedError`` in a forked child, and
    each but ``stop()`` and ``close()`` raises ``DatabaseLostError`` once the file is no longer in
    its place. A call that reads or writes the database raises ``DatabaseError`` if that cannot be
    done; it waits up to 30 s for a lock of another program before that.

    Args:
        path: the SQLite file. One file per application; processes share it. Without it, the file
            that the environment variable ``DURABLY_DB`` names, else ``durably.db``.
        jobs: job specs to register.
        max_workers: how many runs execute at once in this process, 1 to 1000.
        heartbeat_interval: seconds (or a ``timedelta``) between two signs of life.
        stale_threshold: seconds (or a ``timedelta``) after which the runs of a process that hangs
            are recovered; at least twice the heartbeat interval. A dead process is noticed at once.
        poll_interval: the longest time, in seconds (or a ``timedelta``), until a run that another
            process triggered is noticed; an idle engine polls four times a second.
        synchronous: ``"full"``: a checkpoint survives power loss. ``"normal"``: it survives a crash
            of the process; power loss may lose the newest ones, in order.
        preserve_steps: keep the checkpoints of completed runs.
        retain_runs: delete terminal runs older than this in the background: seconds, a
            ``timedelta``, or ``"30d"``, ``"24h"``, ``"60m"``. ``None`` keeps them.
        converter: a ``cattrs.Converter`` with hooks for types of your own.
        codecs: how values of types of your own are stored, also without an annotation, in this
            engine alone; see :mod:`durably.codecs`.
        on_duplicate_step: what happens if a step name is used twice in one execution of a run:
            ``"error"`` raises ``DuplicateStepError``; ``"reuse"`` returns the first one's result
            and warns with ``DuplicateStepWarning``. A job may have its own setting.
        max_deaths: how often the process of a run may die, one after the other, without storing
            another checkpoint of it; after that the run is failed, and not put back to pending.
            Interrupts, stops and restarts of the machine do not count.
        raise_failed: whether leaving a ``with`` block normally and the end of ``run_until_idle()``
            raise ``RunsFailedError`` if runs that were executed here have failed, and no call has
            returned them and no listener of ``run:fail`` was called.
        persist_logs: store the lines of ``step.log`` in the database, for ``get_logs`` and for
            other processes. Lines are buffered, and stored a few times a second and before their
            run ends.
        replace: whether engines that this process has open on the file are replaced: each is
            stopped with ``interrupt=True`` and closed, a warning is logged, and this one continues
            their runs. It waits for the steps in progress; Ctrl-C leaves them. By default they
            are replaced in an interactive session (a prompt, IPython, Jupyter), and kept in a
            script.
        create: whether the file is made if it is missing; if not, that is a ``DatabaseError``.
        show: whether calls that wait for longer than half a second display progress meanwhile, on
            the standard error output or below the cell of a notebook. ``None``: in a notebook and
            on a terminal, for calls of the main thread, unless the environment variable
            ``DURABLY_SHOW`` is ``1`` or ``0``. ``True``: always, with a plain line every few
            seconds where there is no terminal. ``False``: never. What ``tqdm_sink()`` of
            ``durably.progress`` returns: in a bar of tqdm.
        blobs: the folder for results, payloads and items that take more than 4 MiB, each of which
            is a file, named by its content. ``None``: ``<path>.blobs``. ``False``: they are stored
            in the database, up to SQLite's limit. Every process that uses the file must name the
            same folder, and no other database may have it.

    Raises:
        ValidationError: an option or a job spec is not acceptable; the message names it.
        SchemaError: the file is another program's or a newer durably's, or another program has
            changed its schema; it is left as it is.
        DatabaseError: the file cannot be opened, is mounted alone (a container that was given the
            file and not its folder), is another user's, or is locked for over 30 s; or it is
            missing and *create* is false.
        DatabaseLostError: an engine that is kept has lost the file at this path: it was removed or
            replaced.
        ConflictError: a child process of ``multiprocessing`` imports the script, which opens the
            engine without the guard ``if __name__ == "__main__":``; or the call is made inside a
            job or a listener of an engine that it would replace.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0 Has ``replace``, ``create``, ``show``, ``blobs``, ``max_deaths``, and
        a path of the environment.
    """

    # Whether it is opened for one call, and so neither replaces others nor is replaced.
    _is_beside: ClassVar[bool] = False

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
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
        codecs: Iterable[ValueCodec] = (),
        on_duplicate_step: OnDuplicateStep = "error",
        max_deaths: int = 5,
        raise_failed: bool = True,
        persist_logs: bool = False,
        replace: bool | None = None,
        create: bool = True,
        show: Show = None,
        blobs: str | os.PathLike[str] | Literal[False] | None = None,
    ) -> None:
        install_hooks()
        refuse_unguarded_open()
        settings = Settings(
            max_workers=max_workers,
            heartbeat_interval=heartbeat_interval,
            stale_threshold=stale_threshold,
            poll_interval=poll_interval,
            synchronous=synchronous,  # type: ignore[arg-type]  # the validator checks it
            preserve_steps=preserve_steps,
            retain_runs=retain_runs,
            on_duplicate_step=on_duplicate_step,
            max_deaths=max_deaths,
            raise_failed=raise_failed,
            persist_logs=persist_logs,
            create=create,
            replace=replace,
            show=show,
            blobs=blobs,
        )
        # The store, the worker and the client come with it. A process that only defines jobs needs
        # none of them, such as a worker process of a map.
        from durably.entry.wiring import open_parts  # noqa: PLC0415 - where first needed

        self._plugins: set[str] = set()
        parts = open_parts(path, jobs, converter, settings, codecs, is_beside=self._is_beside)
        self._emitter, self._store, self._supervisor, self._shutdown, self._client = parts[:5]
        self._flusher, self._check = self._supervisor.flusher, self._shutdown.check

    def __repr__(self) -> str:
        return repr(self._shutdown)

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
        """Start the engine, as ``start()`` does.

        .. versionadded:: 0.1.0
        """
        return self.start()

    def stop(self, *, interrupt: bool = False, timeout: Duration | None = None) -> None:
        """Claim nothing more, wait for the runs in progress, then end the threads. Idempotent.

        Args:
            interrupt: stop each run at its next step boundary and put it back to pending. The
                step in progress finishes and keeps its checkpoint.
            timeout: seconds (or a ``timedelta``) to wait at most for the runs. The call waits
                without a limit for a listener that one of durably's own threads is calling.

        Raises:
            WaitTimeoutError: the runs did not end in time. They continue, and nothing new
                is claimed until ``start()``.
            ConflictError: called from inside a job or a listener.

        .. versionadded:: 0.1.0
        """
        self._shutdown.stop(interrupt=bool(interrupt), timeout_s=optional_timeout(timeout))

    def close(self) -> None:
        """Wait for the runs in progress and stop, then close every connection. Idempotent.

        Raises:
            ConflictError: called from inside a job or a listener.

        .. versionadded:: 0.1.0
        """
        self._shutdown.close()

    def __enter__(self) -> Self:
        self._shutdown.enter(self.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._shutdown.leave(kind)

    def run_until_idle(
        self,
        *,
        max_runs: int | None = None,
        raise_failed: bool | None = None,
        max_wait: Duration = 0.0,
    ) -> int:
        """Execute pending runs on the pool until none can be claimed; for cron.

        Blocks until then. Works on an engine that was not started, and first recovers what dead
        processes left. Ctrl-C stops the runs at their next step boundary and puts them back.

        Args:
            max_runs: how many runs to execute at most; the count is exact on an engine that was
                not started.
            raise_failed: whether to raise ``RunsFailedError``; by default what the engine's option
                of this name says.
            max_wait: within how many seconds from now (or a ``timedelta``) a run must be due to be
                awaited; one that is due later is left.

        Returns:
            How many runs were executed.

        Raises:
            RunsFailedError: runs that were executed here have failed unseen. All else was done
                before, and each run counts as seen now.
            ConflictError: called from inside a job or a listener; or another call of this
                executes runs of an engine that was not started, and one of the two has
                *max_runs*.
            ValidationError: *max_runs* is not a count, or *max_wait* no duration.

        .. versionadded:: 0.1.0
        """
        self._check()
        refuse_unguarded_start()
        return self._shutdown.run_until_idle(max_runs, raise_failed=raise_failed, max_wait=max_wait)

    def process_one(self) -> bool:
        """Claim and execute one run in the calling thread; return ``False`` if there was none.

        It first recovers what dead processes left. A debugger works in it. An exception of the job
        is stored in the run; only the exception of a signal, such as Ctrl-C, is raised to the
        caller, and puts the run back to pending.

        .. versionadded:: 0.1.0
        """
        self._check()
        refuse_unguarded_start()
        return self._supervisor.process_one()

    # -- jobs ----------------------------------------------------------------------------

    def register(self, job: Job[P, R]) -> JobHandle[P, R]:
        """Register a job in this engine and return its handle.

        Registering the same function again, as when a notebook cell runs again, replaces the job.
        In an interactive session another function of that name replaces it as well, if one of the
        two is of ``__main__``.

        Raises:
            ConflictError: another function is registered under that name.
            ValidationError: it is not a job, or its types cannot be structured.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.handles.register(job)

    @ReadOnly
    def jobs(self) -> Mapping[str, JobHandle[Any, Any]]:
        """Return the handles by job name; read-only.

        Indexing it with an unknown name raises a ``KeyError`` that lists the registered names.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.handles.all()

    def get_job(self, name: str) -> JobHandle[Any, Any] | None:
        """Return the handle of that job, ``None`` if it is not registered.

        .. versionadded:: 0.1.0
        """
        return self.jobs.get(name)

    # -- executing here ------------------------------------------------------------------

    @overload
    def run(
        self,
        job: Job[P, R],
        payload: P | Mapping[str, Any] | None = ...,
        **options: Unpack[RunOptions],
    ) -> Run[P, R]: ...
    @overload
    def run(self, job: str, payload: Any = ..., **options: Unpack[RunOptions]) -> AnyRun: ...
    def run(
        self,
        job: Job[Any, Any] | str,
        payload: Any = NOT_GIVEN,
        *,
        key: str | None = None,
        fresh: bool = False,
        if_running: IfRunning = "wait",
        timeout: Duration | None = None,
        on_payload_change: OnPayloadChange = "warn",
        concurrency_key: str | None = None,
        retry: Retry | None = None,
        labels: dict[str, str] | None = None,
        show: Show = None,
    ) -> AnyRun:
        """Bring a run to its end, from wherever it is, in the calling thread; return it completed.

        With a *key* there is one run for this job and key. If it has completed it is returned as it
        is; if it failed, was cancelled, interrupted or left by a dead process it continues with its
        checkpoints; if it is not there it is created. Without a key the newest run of the job with
        an equal payload and no key continues, unless it has completed: then a new one is created.
        So a script that is started again after a crash goes on, and the next night's does its work.

        The engine need not be started, and no pool is used: the job is called by this thread, with
        its context variables. Ctrl-C leaves the step in progress at once if that is Python code;
        the run goes back to pending with its checkpoints. A run waits for another one with its
        concurrency key only while that is executed, not for those in the queue.

        Usable from any thread; Ctrl-C reaches only the main one.

        Args:
            job: a job, which is registered in place of an older one of its name, or the name of a
                registered one. It continues a run whatever code has begun it.
            payload: as for ``trigger``.
            key: the run's idempotency key.
            fresh: create a new run in any case. The key passes to it; the old run keeps its record.
            if_running: what happens if a live process, or this engine's pool, executes the run or
                another one with its concurrency key. ``"wait"`` waits for its end, and continues
                the run here if that process dies; ``"skip"`` returns the run at once, with
                ``disposition="skipped"``; ``"error"`` raises ``ConflictError``.
            timeout: seconds (or a ``timedelta``) for the whole call. The run stops at its next step
                boundary then.
            on_payload_change: what happens if the run with the key has another payload. ``"warn"``
                warns with ``PayloadChangedWarning`` and leaves the payload as it is; ``"refuse"``
                raises ``ConflictError``; ``"extend"`` stores the new one, and a completed run
                continues with its checkpoints.
            concurrency_key: of all runs with this key at most one is executed at a time. It is that
                of a new run.
            retry: of a new run: how it is tried again after a failure, in place of what the job
                says. The call waits for that, and executes the run again.
            labels: of a new run, for filtering.
            show: whether to display progress, as for ``Durably``; ``None`` for the engine's option.

        Returns:
            The run. Its ``disposition`` is ``"created"``, ``"continued"``, ``"idempotent"`` (it had
            completed before) or ``"skipped"``.

        Raises:
            RunFailedError: the run failed, at its last try; raised from the job's own exception.
            RunCancelledError: the run was cancelled meanwhile.
            WaitTimeoutError: the timeout is over. What was executed here is pending again.
            ConflictError: called from inside a job; the run is executed elsewhere or has another
                payload, and that was to be an error; the engine was stopped meanwhile; or another
                function is registered under the job's name.
            NotFoundError: no job of that name is registered, or the run was deleted meanwhile.
            ValidationError: an argument is not acceptable. Nothing is stored.
            DatabaseError: the run cannot be stored or read now, or its end could not be stored.
            BaseException: what a signal handler has raised, such as ``KeyboardInterrupt``, with a
                note that says what is kept.

        .. versionadded:: 0.2.0
        """
        from durably.client.run_options import (  # noqa: PLC0415 - where first needed
            CheckedOptions,
        )

        self._check()
        refuse_unguarded_start()
        options = CheckedOptions(
            key=key,
            fresh=fresh,
            if_running=if_running,
            timeout=timeout,
            on_payload_change=on_payload_change,
            concurrency_key=concurrency_key,
            retry=retry,
            labels=labels,
            show=show,
        )
        return self._client.runner.run(job, payload, options)

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

        Listeners are called in the thread where the event happened, after the change is committed.
        Their exceptions never fail a run; see ``on_error``.

        Returns:
            A function that ends the subscription; without *listener*, a decorator.

        Raises:
            ValidationError: an unknown type; the message lists the known ones.

        .. versionadded:: 0.1.0
        """
        self._check()
        if listener is None:
            return self._emitter.decorator(type)
        return self._emitter.on(type, listener)

    def on_error(self, handler: ErrorHandler) -> Callable[[], None]:
        """Call ``handler(exception, event)`` for each exception of a listener.

        Without a handler the exceptions are logged.

        Returns:
            A function that ends the subscription.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._emitter.on_error(handler)

    def use(self, plugin: Plugin) -> None:
        """Install a plugin, which has ``name`` and ``install(app)``.

        Raises:
            ValidationError: it is not a plugin.
            ConflictError: a plugin with that name is installed.

        .. versionadded:: 0.1.0
        """
        self._check()
        name = _name_of_plugin(plugin, self._plugins)
        let_through(plugin.install, self)
        self._plugins.add(name)


def _name_of_plugin(plugin: object, installed: Collection[str]) -> str:
    """Return the name of a plugin that is about to be installed.

    Raises:
        ValidationError: it is not a plugin.
        ConflictError: a plugin with that name is among those that are installed.
    """
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not callable(getattr(plugin, "install", None)):
        raise ValidationError(
            f"a plugin needs a name and install(app), unlike {short_repr(plugin)}"
        )
    if isinstance(plugin, type):
        raise ValidationError(f"{short_repr(plugin)} is a class; use an object of it: use(...())")
    if name in installed:
        raise ConflictError(f"a plugin named {name!r} is installed already")
    return name
