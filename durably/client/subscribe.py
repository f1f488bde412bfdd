"""Subscribe to the events of a run: those that this process emits, or its end in the database."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from durably._platform.signals import door
from durably.client.arguments import run_id_of
from durably.client.query import Reader
from durably.errors import EngineClosedError, NotFoundError
from durably.events import (
    Event,
    RunCancelled,
    RunCompleted,
    RunDeleted,
    RunEvent,
    RunFailed,
)
from durably.execution.emitter import Emitter
from durably.execution.unseen_failures import see_attempt, unseen_attempt
from durably.models import TERMINAL, Run, RunStatus

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker
    from durably.store.api import Store

# The longest pause between two checks of a run.
_LONGEST_PAUSE_S: Final = 1.0
_ENDING_EVENTS: Final = (RunCompleted, RunFailed, RunCancelled, RunDeleted)


@door
class Subscription(Iterator[Event]):
    """The events of one run, ending after its terminal one. A context manager.

    Iterating blocks until the next event. Leaving the ``with`` block, ``close``, the deletion
    of the run and the end of the engine end it.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        run: Run[Any, Any] | str,
        *,
        store: Store,
        reader: Reader,
        emitter: Emitter,
        worker: LocalWorker,
    ) -> None:
        self._run_id = run_id_of(run)
        self._store = store
        self._reader = reader
        self._emitter = emitter
        self._changes = store.changes
        self._worker = worker
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._is_over = False
        self._last: Event | None = None
        self._failed_attempt: int | None = None  # the one of the first event of a failure
        self._unsubscribe = emitter.on("*", self._hear, is_users=False)
        try:
            found = reader.get(self._run_id)
            if found.is_terminal:
                # Only that event: the job may still be inside its last step here, and emit others.
                self._last = self._ending_of(found)
                self.close()
        except BaseException:
            self.close()
            raise

    def _hear(self, event: Event) -> None:
        if isinstance(event, RunEvent) and event.run_id == self._run_id:
            if isinstance(event, RunFailed) and self._failed_attempt is None:
                # Known only now: when the event is returned, another attempt may have failed.
                self._failed_attempt = unseen_attempt(self._run_id)
            self._events.put(event)
            self._changes.notify()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event, self._last = self._last, None
        if event is None:
            event = self._next()
        if event is None or isinstance(event, _ENDING_EVENTS):
            self.close()
        if event is None:
            raise StopIteration
        if isinstance(event, RunFailed) and self._failed_attempt is not None:
            see_attempt(self._run_id, self._failed_attempt)
        return event

    def _next(self) -> Event | None:
        """Block until the next event and return it; ``None`` if there are no more."""
        while not self._is_over:
            seen = self._changes.snapshot()
            # Checked before the queue is read: the events that are emitted here are in it by then.
            is_local = self._is_local()
            brief = None
            if not is_local:
                with suppress(EngineClosedError):
                    brief = self._store.brief(self._run_id)
                is_local = self._is_local()
            with suppress(queue.Empty):
                return self._events.get_nowait()
            if self._store.is_closed or (brief is None and not is_local):
                break
            if not is_local and brief is not None and brief.status in TERMINAL:
                # The run may have been retried or deleted meanwhile, or the engine closed.
                with suppress(NotFoundError, EngineClosedError):
                    run = self._reader.get(self._run_id)
                    if run.is_terminal:
                        return self._ending_of(run)
            # Inside a job it is a step boundary.
            self._worker.check_job()
            self._changes.wait(seen, _LONGEST_PAUSE_S)
        return None

    def _is_local(self) -> bool:
        """Return whether the events of the run are emitted in this process."""
        return self._worker.is_executing(self._run_id) or self._emitter.is_announcing(self._run_id)

    def _ending_of(self, run: Run[Any, Any]) -> Event:
        """Return the terminal event of a run that ended in another process, or before now."""
        fields: dict[str, Any] = {
            "run_id": run.id,
            "job_name": run.job_name,
            "labels": run.labels,
        }
        duration = run.duration or 0.0
        if run.status is RunStatus.COMPLETED:
            return self._emitter.make(
                "run:complete",
                **fields,
                output=run.output,
                duration=duration,
                unused_steps=self._reader.unused_steps_of(run.id),
            )
        if run.status is RunStatus.FAILED:
            self._failed_attempt = run.attempt
            return self._emitter.make(
                "run:fail",
                **fields,
                error=run.error,
                failed_step=self._reader.failed_step_of(run.id),
                duration=duration,
            )
        return self._emitter.make("run:cancel", **fields)

    def close(self) -> None:
        """End the subscription. Idempotent.

        .. versionadded:: 0.1.0
        """
        self._is_over = True
        self._unsubscribe()
        self._changes.notify()  # another thread may be waiting for the next event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
