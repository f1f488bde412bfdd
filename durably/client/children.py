"""Trigger and read the children of the runs that are executed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from durably._platform.clock import Clock, to_datetime
from durably.client.arguments import NOT_GIVEN, Trigger
from durably.client.handles import Handles
from durably.client.query import Reader
from durably.client.submit import Submitter
from durably.client.wait import completed
from durably.execution.emitter import Emitter
from durably.execution.live_failures import FailureWatch
from durably.models import Run
from durably.store.rows import RunKey

if TYPE_CHECKING:
    from durably.store.api import Store


@attrs.frozen(eq=False, repr=False)
class Children:
    """Answers ``execution.children.ChildRuns``. Usable from any thread."""

    _store: Store
    _clock: Clock
    _emitter: Emitter
    _reader: Reader
    _submitter: Submitter
    _handles: Handles

    def trigger(
        self,
        parent: RunKey,
        fence: int,
        run_id: str,
        job: Any,
        payload: Any,
        options: dict[str, Any],
    ) -> str | None:
        """Trigger a run, unless there is one of that id; return the id of the run that counts.

        Return ``None`` if the claim of the parent is not the current one.
        """
        handle = self._handles.find(job, "step.trigger")
        given = Trigger(NOT_GIVEN if payload is ... else payload, **options)
        accepted = self._submitter.accepted(self._submitter.registry.require(handle.name), given)
        new = accepted.new._replace(id=run_id, parent=parent)
        accepted = accepted._replace(new=new)
        try:
            with self._emitter.announcing(new.id):
                now_us = self._clock.now_us()
                enqueued = self._store.spawn(fence, new, now_us)
                if enqueued is None:
                    return None
                if enqueued.disposition != "idempotent":
                    self._submitter.emit(enqueued, accepted, to_datetime(now_us))
                return enqueued.row.id
        finally:
            self._submitter.notify_dispatcher()

    def read(self, run_id: str) -> Run[Any, Any]:
        """Return the run; raise ``NotFoundError`` if it was deleted."""
        return self._reader.get(run_id)

    def ended(self, run_id: str) -> Run[Any, Any]:
        """Return the run, which has ended; raise if it has failed or was cancelled."""
        return completed(self._reader.get(run_id), FailureWatch(run_id))
