"""Change the results of runs that nothing executes, because a person has asked for it."""

from __future__ import annotations

import attrs

from durably._platform.clock import Clock
from durably.client.arguments import AnyRun
from durably.client.control import fields_of
from durably.client.local_worker import LocalWorker
from durably.client.query import Reader, run_id_of
from durably.errors import RunCancelled, ValidationError
from durably.execution.emitter import Emitter
from durably.jobs.names import check_text
from durably.store.api import Store


@attrs.frozen(eq=False, repr=False)
class ByHand:
    """Redo runs, of whatever process. Usable from any thread."""

    _store: Store
    _emitter: Emitter
    _clock: Clock
    _reader: Reader
    _worker: LocalWorker

    def redo(self, run: AnyRun | str, from_step: str | None, only: str | None) -> AnyRun:
        """Forget results of a run, make it pending, and return it."""
        for value, what in ((from_step, "from_step"), (only, "only")):
            if value is not None:
                check_text(value, what)
        if from_step is not None and only is not None:
            raise ValidationError("redo takes from_step or only, not both; leave one of them out")
        run_id = self._idle(run)
        with self._emitter.announcing(run_id):
            row, cancelled = self._store.redo(run_id, from_step, only, self._clock.now_us())
            for each in cancelled:
                self._worker.stop_run(each, RunCancelled)
            self._store.changes.offer()
            for each in cancelled:
                self._emitter.emit("run:cancel", **fields_of(each))
            self._emitter.emit(
                "run:redo", **fields_of(row), from_step=from_step, only=only, is_manual=False
            )
        return self._reader.run_of(row)

    def _idle(self, run: AnyRun | str) -> str:
        """Return the id of a run, which goes back first if the process that executes it has died.

        The store rejects the change if another one executes it.
        """
        run_id = run_id_of(run)
        brief, callers = self._store.brief(run_id), self._worker.callers_thread
        if brief is not None and brief.owner is not None and callers is not None:
            callers.recover()
        return run_id
