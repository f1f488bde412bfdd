"""The calls of an engine about runs: store, await and change them. They need no worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from durably._platform.signals import door
from durably.client.answer_calls import AnswerCalls
from durably.client.arguments import NOT_GIVEN, AnyRun, OnLog, OnProgress, Trigger
from durably.client.by_hand_calls import ByHandCalls
from durably.client.care import CareCalls
from durably.client.read_calls import ReadCalls
from durably.jobs import Job
from durably.models import Run, RunList
from durably.settings import Coalesce, Duration, OnPayloadChange, optional_timeout

if TYPE_CHECKING:
    from durably.client.subscribe import Subscription
    from durably.client.trigger_options import TriggerOptions, WaitOptions
    from durably.models.records import ItemRecord
    from durably.settings.retries import Retry

P = TypeVar("P")
R = TypeVar("R")


@door
class RunCalls(ReadCalls, AnswerCalls, CareCalls, ByHandCalls):
    """What an engine can be asked about runs, also where nothing is executed."""

    @overload
    def trigger(
        self,
        job: Job[P, R],
        payload: P | Mapping[str, Any] | None = ...,
        **options: Unpack[TriggerOptions],
    ) -> Run[P, R]: ...
    @overload
    def trigger(
        self, job: str, payload: Any = ..., **options: Unpack[TriggerOptions]
    ) -> AnyRun: ...
    def trigger(
        self,
        job: Job[Any, Any] | str,
        payload: Any = NOT_GIVEN,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Coalesce = False,
        retry_failed: bool = False,
        on_payload_change: OnPayloadChange = "warn",
        run_at: datetime | None = None,
        delay: Duration | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        labels: dict[str, str] | None = None,
    ) -> AnyRun:
        """Store a run of a job and return it, as ``JobHandle.trigger`` does.

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
        self._check()
        return self._client.submitter.trigger(
            self._client.handles.find(job, "trigger").job,
            Trigger(
                payload,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
                coalesce=coalesce,
                retry_failed=retry_failed,
                on_payload_change=on_payload_change,
                run_at=run_at,
                delay=delay,
                retry=retry,
                timeout=timeout,
                labels=labels,
            ),
        )

    @overload
    def trigger_and_wait(
        self,
        job: Job[P, R],
        payload: P | Mapping[str, Any] | None = ...,
        **options: Unpack[WaitOptions],
    ) -> Run[P, R]: ...
    @overload
    def trigger_and_wait(
        self, job: str, payload: Any = ..., **options: Unpack[WaitOptions]
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
        coalesce: Coalesce = False,
        retry_failed: bool = False,
        on_payload_change: OnPayloadChange = "warn",
        run_at: datetime | None = None,
        delay: Duration | None = None,
        retry: Retry | None = None,
        labels: dict[str, str] | None = None,
    ) -> AnyRun:
        """Store a run of a job, block until it has completed, and return it.

        Args:
            job: a job, which is registered if it is not, or the name of a registered one.

        The other arguments are those of ``JobHandle.trigger_and_wait``.

        Raises:
            RunFailedError: the run failed; it has ``.run``. It is raised from the job's own
                exception if the run was executed by this engine during the call.
            RunCancelledError: the run was cancelled; it has ``.run``.
            WaitTimeoutError: the timeout has expired; the run is stored and continues.
            NoWorkerError: no timeout was given, and no engine could execute the run.

        It also raises the errors of ``trigger``.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.submitter.trigger_and_wait(
            self._client.handles.find(job, "trigger_and_wait").job,
            Trigger(
                payload,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
                coalesce=coalesce,
                retry_failed=retry_failed,
                on_payload_change=on_payload_change,
                run_at=run_at,
                delay=delay,
                retry=retry,
                labels=labels,
            ),
            optional_timeout(timeout),
            on_progress,
            on_log,
        )

    # Items of any type: mypy infers no P for a list that mixes payloads and triggers.
    @overload
    def batch_trigger(self, job: Job[P, R], items: Iterable[Any]) -> RunList[P, R]: ...
    @overload
    def batch_trigger(self, job: str, items: Iterable[Any]) -> RunList[Any, Any]: ...
    def batch_trigger(self, job: Job[Any, Any] | str, items: Iterable[Any]) -> RunList[Any, Any]:
        """Store a run of a job for each item in one transaction: all of them or none.

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
        self._check()
        return self._client.handles.find(job, "batch_trigger").batch_trigger(items)

    # -- runs ----------------------------------------------------------------------------

    def wait(
        self,
        run: Run[P, R] | str,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        on_log: OnLog | None = None,
    ) -> Run[P, R]:
        """Block until the run has completed, whatever process executes it, and return it.

        Args:
            timeout: seconds (or a ``timedelta``) to wait at most; the run continues after that.
            on_progress: called in this thread with each new ``Progress``.
            on_log: called in this thread with each ``LogEntry`` of a run executed in this
                process, or of any whose logs are persisted.

        Raises:
            RunFailedError: the run failed; it has ``.run``. It is raised from the job's own
                exception if the run was executed by this engine during the call.
            RunCancelledError: the run was cancelled; it has ``.run``.
            NotFoundError: there is no such run, or it was deleted meanwhile.
            WaitTimeoutError: the timeout has expired; the run continues.
            NoWorkerError: no timeout was given, and no engine could execute the run.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.waiter.wait_for(run, timeout, on_progress, on_log)

    def as_completed(
        self, runs: Iterable[AnyRun | str], *, timeout: Duration | None = None
    ) -> Iterator[AnyRun]:
        """Yield each of the runs when it has ended, failed and cancelled ones too.

        Args:
            runs: runs or their ids; a mapping counts as its keys, as in ``concurrent.futures``.
            timeout: seconds (or a ``timedelta``) for all of them together.

        Raises:
            NotFoundError: there is no such run, or it was deleted meanwhile.
            WaitTimeoutError: the timeout has expired; the runs continue.
            NoWorkerError: no timeout was given, and no engine could execute one of the runs.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.waiter.as_completed(runs, timeout)

    def retry(
        self,
        run: Run[P, R] | str,
        *,
        only: str | Callable[[ItemRecord], object] | None = None,
    ) -> Run[P, R]:
        """Put a failed or cancelled run back to pending, its completed steps kept.

        Args:
            only: which failed items of its maps are tried again: the name of an exception's type,
                such as ``"RateLimited"``, or a function of the ``ItemRecord`` that returns whether
                the item is. The others count as failed without being executed, until the next
                retry. All of them are tried again by default.

        Raises:
            ConflictError: the run is in another state.
            NotFoundError: there is no such run, or no failed item is meant by *only*; the message
                lists with what they have failed.
            ValidationError: *only* is neither.

        .. versionadded:: 0.1.0
        .. versionchanged:: 0.2.0 Has *only*.
        """
        self._check()
        if only is not None:
            return self._client.by_hand.retry_items(run, only)
        return self._client.control.retry(run)

    def adopt(self, run: Run[P, R] | str) -> Run[P, R]:
        """Make this engine's job continue a pending run that other code has begun, and return it.

        A run with checkpoints is claimed only by the code that made them, which is identified by
        the module (for a script by the file's name) and the qualified name of the job's function.
        After this call it belongs to the job of its name that is registered here, and is claimed
        like any other run.

        Raises:
            ConflictError: the run is not pending.
            NotFoundError: there is no such run, or its job is not registered.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.control.adopt(run)

    def retrigger(self, run: Run[P, R] | str) -> Run[P, R]:
        """Store a fresh run with the payload, labels and concurrency key of a terminal one.

        Raises:
            ConflictError: the run has not ended.
            NotFoundError: there is no such run, or its job is not registered.
            ValidationError: the payload does not fit today's job.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.control.retrigger(run)

    def cancel(self, run: AnyRun | str) -> None:
        """Cancel a run that has not ended; when this returns it is cancelled in the database.

        So are its children, and theirs, that have not ended.

        A job that is inside a step continues until that step ends; the step's result is not stored.

        Raises:
            ConflictError: the run has ended.
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        self._client.control.cancel(run)

    def delete_run(self, run: AnyRun | str) -> None:
        """Delete a terminal run with its steps, logs and labels.

        Raises:
            ConflictError: the run has not ended, or its job is still inside a step.
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        self._client.control.delete(run)

    def subscribe(self, run: AnyRun | str) -> Subscription:
        """Return the run's events from now on, up to its terminal one; a context manager.

        A run that is already terminal yields that one event. A run that another process executes
        yields only its terminal event.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.subscribe(run)
