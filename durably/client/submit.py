"""Check triggers, store their runs, and emit their events."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import attrs

from durably._platform.clock import Clock, to_datetime
from durably._platform.ids import Ids
from durably._platform.interactive import again
from durably._platform.tracebacks import stacklevel
from durably.client.arguments import (
    NOT_GIVEN,
    OnLog,
    OnProgress,
    Trigger,
    checked_key,
    checked_labels,
    checked_retry,
    checked_start,
    checked_timeout_us,
    has_options,
)
from durably.client.query import Reader, labels_of
from durably.client.wait import Waiter
from durably.codec import UNTYPED, Codec
from durably.errors import ConflictError, PayloadChangedWarning, SerializationError, ValidationError
from durably.execution.emitter import Emitter
from durably.jobs import (
    Job,
    default_payload,
    has_default_payload,
    payload_type,
    takes_payload,
)
from durably.jobs.registry import JobRegistry, origins_json
from durably.models import Run, RunList
from durably.settings import OnPayloadChange, check_bool, check_choice
from durably.store.rows import Enqueued, NewRun, RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker
    from durably.store.api import Store

_COALESCE: Final = Literal["pending", "active"]


class Accepted(NamedTuple):
    """A valid trigger, ready to be stored."""

    new: NewRun
    payload: Any
    """As it will be read: it shares nothing mutable with the payload that was passed."""


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Submitter:
    """Check triggers, store them and emit their events. Usable from any thread."""

    _store: Store
    _codec: Codec
    _emitter: Emitter
    _worker: LocalWorker
    _clock: Clock
    _ids: Ids
    registry: JobRegistry
    reader: Reader
    waiter: Waiter
    check: Callable[[], None]

    def trigger(self, job: Job[Any, Any], trigger: Trigger[Any]) -> Run[Any, Any]:
        """Store one trigger; when this returns it is committed."""
        return self._trigger(job, self.accepted(job, trigger))

    def trigger_and_wait(
        self,
        job: Job[Any, Any],
        trigger: Trigger[Any],
        timeout_s: float | None,
        on_progress: OnProgress | None,
        on_log: OnLog | None,
    ) -> Run[Any, Any]:
        """Store one trigger, and block until its run has ended; return the completed run."""
        waiter = self.waiter
        patience = waiter.patience(timeout_s)
        callbacks = waiter.callbacks(on_progress, on_log)
        try:
            with waiter.watching() as watch:
                seen = self._store.changes.quick_snapshot()
                with patience.limited():
                    run = self.trigger(job, trigger)
                watch.watch_only(run.id)
                # Report only progress that the run has made since the trigger.
                callbacks.known = run.progress
                return waiter.wait(
                    run.id,
                    timeout_s,
                    callbacks,
                    watch,
                    disposition=run.disposition,
                    patience=patience,
                    again=again() if trigger.retry_failed else None,
                    seen=seen if run.disposition == "created" else None,
                )
        finally:
            callbacks.close()

    def _trigger(self, job: Job[Any, Any], accepted: Accepted) -> Run[Any, Any]:
        new = accepted.new
        if new.run_at_us is None and not self._has_listeners(new):
            now_us = self._clock.now_us()
            enqueued = self._worker.enqueue_and_claim(new, now_us)
            if enqueued is not None:
                self._warn_if_changed(job, enqueued, new)
                return self.emit(enqueued, accepted, to_datetime(now_us))
        # The run starts after the listeners have returned: one that waits for the run would wait
        # for itself otherwise.
        try:
            with self._emitter.announcing(new.id):
                now_us = self._clock.now_us()
                enqueued = self._store.enqueue(new, now_us)
                self._warn_if_changed(job, enqueued, new)
                return self.emit(enqueued, accepted, to_datetime(now_us))
        finally:
            # Only now: run:start is emitted after run:trigger.
            self.notify_dispatcher()

    def notify_dispatcher(self) -> None:
        """Wake the dispatcher and waiting threads: a run may be claimable."""
        self._store.changes.notify_dispatcher()

    def _has_listeners(self, new: NewRun) -> bool:
        """Return whether an event that this trigger may lead to has a listener."""
        wants = self._emitter.wants
        return (
            wants("run:trigger")
            or (new.coalesce and wants("run:coalesced"))
            or (new.retry_failed and wants("run:retry"))
        )

    def trigger_all(self, job: Job[Any, Any], items: list[Any]) -> RunList[Any, Any]:
        """Store a run for each payload or ``Trigger`` in one transaction, or none."""
        accepted: list[Accepted] = []
        for position, item in enumerate(items):
            try:
                accepted.append(
                    self.accepted(job, item)
                    if isinstance(item, Trigger)
                    else self._accepted_payload(job, item)
                )
            except ValidationError as exc:
                raise ValidationError(f"item {position} of the batch: {exc}") from None
        if not accepted:
            return RunList()
        now_us = self._clock.now_us()
        now = to_datetime(now_us)
        all_enqueued = self._store.enqueue_many([each.new for each in accepted], now_us)
        try:
            for enqueued, each in zip(all_enqueued, accepted, strict=True):
                self._warn_if_changed(job, enqueued, each.new)
            return RunList(
                self.emit(enqueued, each, now)
                for enqueued, each in zip(all_enqueued, accepted, strict=True)
            )
        finally:
            self.notify_dispatcher()

    def accepted(self, job: Job[Any, Any], trigger: Trigger[Any]) -> Accepted:
        """Return a trigger as it is stored.

        Raises:
            ValidationError: it is not acceptable.
        """
        if not has_options(trigger):
            return self._accepted_payload(job, trigger.payload)
        check_bool(trigger.retry_failed, "retry_failed")
        if not isinstance(trigger.coalesce, bool):
            check_choice(trigger.coalesce, "coalesce", _COALESCE)
        check_choice(trigger.on_payload_change, "on_payload_change", OnPayloadChange)
        if trigger.retry_failed and trigger.idempotency_key is None:
            raise ValidationError(
                "retry_failed needs an idempotency_key, to know which run is meant"
            )
        if trigger.coalesce and trigger.concurrency_key is None:
            raise ValidationError("coalesce needs a concurrency_key, to know what to join")
        idempotency_key = checked_key(trigger.idempotency_key, "idempotency_key")
        concurrency_key = checked_key(trigger.concurrency_key, "concurrency_key")
        plain = self._accepted_payload(job, trigger.payload)
        new = plain.new._replace(
            labels=checked_labels(trigger.labels),
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=trigger.coalesce is not False,
            joins_active=trigger.coalesce == "active",
            on_payload_change=trigger.on_payload_change,
            run_at_us=checked_start(trigger.run_at, trigger.delay, self._clock.now_us()),
            retry_failed=trigger.retry_failed,
            retry=checked_retry(trigger.retry),
            timeout_us=checked_timeout_us(trigger.timeout),
            origins=f"{{{origins_json(job)}}}" if trigger.coalesce else "{}",
        )
        if idempotency_key is not None and new.on_payload_change != "warn":
            new = self._compared(job, new)
        return Accepted(new, plain.payload)

    def _compared(self, job: Job[Any, Any], new: NewRun) -> NewRun:
        """Return the run with the stored payload that is not another one, although text differs.

        Raises:
            ConflictError: the run with the key has another payload, and that is to be refused.
        """
        from durably.client import messages  # noqa: PLC0415 - where first needed
        from durably.client.payload_changes import (  # noqa: PLC0415 - where first needed
            changed_paths,
            named,
        )

        row = self._store.find_by_key(new.job_name, new.idempotency_key or "")
        if row is None or row.payload == new.payload:
            return new
        changed = changed_paths(self._codec, job, row.payload, new.payload)
        if changed and new.on_payload_change == "refuse":
            raise messages.payload_conflict(row, named(changed))
        return new if changed else new._replace(same_payloads=frozenset({row.payload}))

    def _warn_if_changed(self, job: Job[Any, Any], enqueued: Enqueued, new: NewRun) -> None:
        """Warn if the key of a trigger has found a run with another payload."""
        row = enqueued.row
        is_found = enqueued.disposition in ("idempotent", "retried")
        if not is_found or new.on_payload_change != "warn" or row.payload == new.payload:
            return
        from durably.client import messages  # noqa: PLC0415 - where first needed
        from durably.client.payload_changes import (  # noqa: PLC0415 - where first needed
            changed_paths,
            named,
        )

        changed = changed_paths(self._codec, job, row.payload, new.payload)
        if changed:
            warnings.warn(
                messages.payload_changed(row, named(changed)),
                PayloadChangedWarning,
                stacklevel=stacklevel(),
            )

    def _accepted_payload(self, job: Job[Any, Any], payload: Any) -> Accepted:
        text, decoded = self._payload(job, payload)
        return Accepted(NewRun(self._ids.new(), job.name, text), decoded)

    def _payload(self, job: Job[Any, Any], payload: Any) -> tuple[str, Any]:
        """Return the payload as it is stored, and as it will be read."""
        if not takes_payload(job):
            if payload is not None and payload is not NOT_GIVEN:
                raise ValidationError(
                    f"job {job.name!r} takes no payload: its function has one parameter; "
                    "leave the payload out, or give the function a second parameter"
                )
            return "null", None
        type_ = payload_type(job)
        where = f"the payload of {job.name}"
        if payload is NOT_GIVEN:
            payload = default_payload(job)
            if has_default_payload(job):
                where = f"the default payload of {job.name}"
            else:
                where = f"{where} was left out; pass one"
        structured = self._codec.structure(payload, type_, what=where)
        try:
            return self._codec.encode_and_decode(structured, type_, what=where, has_parts=True)
        except SerializationError as exc:
            raise ValidationError(str(exc)) from None

    def emit(self, enqueued: Enqueued, accepted: Accepted, now: datetime) -> Run[Any, Any]:
        """Emit the events of a trigger that was stored, and return its run."""
        is_created = enqueued.disposition == "created"
        run = (
            self.reader.created(enqueued.row, accepted.payload, now)
            if is_created
            else self.reader.run_of(enqueued.row, enqueued.disposition)
        )
        if is_created and not self._emitter.wants("run:trigger"):
            return run
        fields: dict[str, Any] = {
            "run_id": run.id,
            "job_name": run.job_name,
            "labels": dict(run.labels),  # a listener may change those of its event
        }
        if is_created:
            self._emitter.emit("run:trigger", **fields, payload=run.payload)
        elif enqueued.disposition == "coalesced":
            # As the job would have received it, like the payload of every other event.
            self._emitter.emit("run:coalesced", **fields, skipped_payload=accepted.payload)
        elif enqueued.disposition == "retried":
            self._emitter.emit("run:retry", **fields)
        return run

    def forked(self, row: RunRow, payload: Any) -> tuple[str, str | None]:
        """Return the id of a run that is forked from another one, and its payload as it is stored.

        That is ``None`` if none is given.

        The payload of a job that is not registered here is checked when it is executed.

        Raises:
            ConflictError: a payload is given for a session.
            ValidationError: the payload does not fit the job, or has no stored form.
        """
        if payload is NOT_GIVEN or payload is ...:
            return self._ids.new(), None
        if row.kind == "session":
            raise ConflictError(f"run {row.id} is a session, which has no payload; leave it out")
        job = self.registry.get(row.job_name)
        if job is not None:
            return self._ids.new(), self._payload(job, payload)[0]
        try:
            text = self._codec.encode(
                payload, UNTYPED, what=f"the payload of {row.job_name}", has_parts=True
            )
        except SerializationError as exc:
            raise ValidationError(str(exc)) from None
        return self._ids.new(), text

    def retrigger(self, row: RunRow) -> Run[Any, Any]:
        """Store a new run with the payload, the options and the concurrency key of a terminal one.

        The payload must fit the job as it is registered now.
        """
        job = self.registry.require(row.job_name)
        # A job that takes no payload now gets the stored one all the same, and rejects it.
        payload = (
            self._codec.decode(row.payload, payload_type(job), what=f"the payload of run {row.id}")
            if takes_payload(job)
            else self._codec.load_json(row.payload)
        )
        trigger = Trigger(payload, concurrency_key=row.concurrency_key, labels=labels_of(row))
        accepted = self.accepted(job, trigger)
        new = accepted.new._replace(retry=row.retry, timeout_us=row.timeout_us)
        return self._trigger(job, accepted._replace(new=new))
