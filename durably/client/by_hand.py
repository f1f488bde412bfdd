"""Change the results of runs that nothing executes, because a person has asked for it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from durably._platform.clock import Clock
from durably._platform.safe_repr import short_repr, type_name
from durably._platform.signals import let_through
from durably.client.arguments import AnyRun, checked_key, run_id_of
from durably.client.control import fields_of
from durably.client.items import ItemReader
from durably.client.query import Reader
from durably.client.submit import Submitter
from durably.codec import UNTYPED, Codec
from durably.errors import NotFoundError, RunCancelled, ValidationError
from durably.execution.emitter import Emitter
from durably.jobs.names import check_text
from durably.store.rows import RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker
    from durably.models.records import ItemRecord
    from durably.store.api import Store


@attrs.frozen(eq=False, repr=False)
class ByHand:
    """Redo and fork runs, of whatever process, and set results. Usable from any thread."""

    _store: Store
    _emitter: Emitter
    _clock: Clock
    _codec: Codec
    _reader: Reader
    _submitter: Submitter
    _worker: LocalWorker

    def retry_items(self, run: AnyRun | str, only: object) -> AnyRun:
        """Put a run back to pending, of whose maps only some failed items are tried again."""
        if not isinstance(only, str) and not callable(only):
            raise ValidationError(
                "only must be the name of an exception's type, or a function of an ItemRecord, "
                f"not {type_name(only)}"
            )
        run_id = run_id_of(run)
        row = self._store.get_run(run_id)
        reader = ItemReader(self._store, self._codec, self._reader)
        tried: dict[str, list[int]] = {}
        kinds: Counter[str] = Counter()
        for name in self._maps_of(run_id):
            for item in reader.items_of(run_id, name, "failed", None, 0):
                kinds["" if item.error is None else item.error.type] += 1
                if _is_meant(item, only):
                    tried.setdefault(name, []).append(item.index)
        if not tried and row.status in ("failed", "cancelled"):
            which = ", ".join(f"{n:,} \N{MULTIPLICATION SIGN} {kind}" for kind, n in kinds.items())
            raise NotFoundError(
                f"none of the failed items of run {run_id} is meant by only={short_repr(only)}; "
                + (f"they failed with {which}" if kinds else "it has none")
            )
        with self._emitter.announcing(run_id):
            retried = self._store.retry_items(run_id, row.fence, tried, self._clock.now_us())
            self._store.changes.notify_dispatcher()
            for each in retried:
                self._emitter.emit("run:retry", **fields_of(each))
        return self._reader.run_of(retried[0])

    def _maps_of(self, run_id: str) -> list[str]:
        ended = [step.name for step in self._store.steps_of(run_id) if step.counts is not None]
        return [*ended, *(each.name for each in self._store.open_maps(run_id))]

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
            self._store.changes.notify_dispatcher()
            for each in cancelled:
                self._emitter.emit("run:cancel", **fields_of(each))
            self._emitter.emit(
                "run:redo", **fields_of(row), from_step=from_step, only=only, is_manual=False
            )
        return self._reader.run_of(row)

    def fork(
        self, run: AnyRun | str, from_step: str | None, payload: Any, key: str | None
    ) -> AnyRun:
        """Store a new run with copies of the results of another one, and return it."""
        if from_step is not None:
            check_text(from_step, "from_step")
        key = checked_key(key, "key")
        run_id = self._idle(run)
        row = self._store.get_run(run_id)
        new_id, text = self._submitter.forked(row, payload)
        with self._emitter.announcing(new_id):
            forked = self._store.fork(run_id, from_step, new_id, text, key, self._clock.now_us())
            self._store.changes.notify_dispatcher()
            self._emitter.emit(
                "run:fork", **fields_of(forked), forked_from=run_id, from_step=from_step
            )
        return self._reader.run_of(forked)

    def set_step(self, run: AnyRun | str, name: str, value: Any) -> None:
        """Set the result of a step."""
        check_text(name, "name")
        text = self._codec.encode(
            value, UNTYPED, what="the result of step", name=name, has_parts=True
        )
        run_id = self._idle(run)
        with self._emitter.announcing(run_id):
            row = self._store.set_step(run_id, name, text, self._clock.now_us())
            self._has_set(row, name)

    def set_item(self, run: AnyRun | str, name: str, key: str | int, value: Any) -> None:
        """Set the result of an item of a map."""
        check_text(name, "name")
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValidationError(f"key must be a str or an int, not {type_name(key)}")
        text = self._codec.encode(
            value, UNTYPED, what="the result of item", name=str(key), has_parts=True
        )
        run_id = self._idle(run)
        with self._emitter.announcing(run_id):
            row = self._store.set_item(run_id, name, key, text, self._clock.now_us())
            self._has_set(row, f"{name}[{key}]")

    def _has_set(self, row: RunRow, only: str) -> None:
        self._store.changes.notify_dispatcher()
        self._emitter.emit("run:redo", **fields_of(row), from_step=None, only=only, is_manual=True)

    def _idle(self, run: AnyRun | str) -> str:
        """Return the id of a run, which goes back first if the process that executes it has died.

        The store rejects the change if another one executes it.
        """
        run_id = run_id_of(run)
        brief, callers = self._store.brief(run_id), self._worker.callers_thread
        if brief is not None and brief.owner is not None and callers is not None:
            callers.recover()
        return run_id


def _is_meant(item: ItemRecord, only: Any) -> bool:
    if not isinstance(only, str):
        return bool(let_through(only, item))
    kind = "" if item.error is None else item.error.type
    return kind == only or kind.endswith(f".{only}")
