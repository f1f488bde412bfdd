"""One item on its way through a map."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from durably._platform.signals import let_through
from durably.codec import UNTYPED
from durably.errors import (
    RetryAfter,
    RunInterrupted,
    RunSuspended,
    SerializationError,
    ValidationError,
)
from durably.execution.current_run import CurrentRun
from durably.execution.loops.options import LoopOptions
from durably.execution.nested_steps import NestedSteps
from durably.execution.services import Services
from durably.execution.step_log import current_deadline, current_item, current_step
from durably.execution.step_recorder import NOT_OURS
from durably.execution.storing import encoded
from durably.models import ErrorInfo, error_info, stored_error
from durably.settings.retries import next_wait_s

if TYPE_CHECKING:
    from durably.execution.layers import Layers
    from durably.execution.step_runner import StepRunner
    from durably.store.item_rows import ItemRow, Key, NewItem


class Task:
    """An item, and what has become of it.

    Attributes:
        position: in the items of this execution.
        index: where it is stored among the items of the map.
        attempts: how often it was executed, in earlier launches too.
        failures: how often it has failed in this one.
        text: its stored result; ``None`` as long as there is none.
        exc: what its function has raised.
        error_info: that as it is recorded, and ``error`` as it is stored.
        wait_s: how long it waits until it is executed again.
        is_held: whether it has failed before and is not tried again now.
        is_replacing: whether it has a result, which is out of date.
    """

    __slots__ = (
        "attempts",
        "completed_at_us",
        "error",
        "error_info",
        "exc",
        "failures",
        "hash",
        "index",
        "is_held",
        "is_replacing",
        "item",
        "key",
        "position",
        "started_at_us",
        "text",
        "value",
        "wait_s",
    )

    def __init__(self, position: int, key: Key, item: Any) -> None:
        self.position = position
        self.key = key
        self.item = item
        self.index = position
        self.hash: int | None = None
        self.attempts = 0
        self.failures = 0
        self.text: str | None = None
        self.value: Any = None
        self.exc: BaseException | None = None
        self.error_info: ErrorInfo | None = None
        self.error: str | None = None
        self.wait_s: float | None = None
        self.started_at_us = 0
        self.completed_at_us = 0
        self.is_held = False
        self.is_replacing = False

    def row(self, *, is_keyed: bool, code: int | None) -> NewItem:
        """Return the item as it is stored, with the fingerprint of its function."""
        return (
            self.index,
            self.key if is_keyed else None,
            self.text,
            self.error,
            self.attempts,
            self.hash,
            self.started_at_us,
            self.completed_at_us,
            code,
        )


class Reused:
    """Items whose results come from checkpoints: in lists, since there may be a million of them.

    Attributes:
        positions: in the items of this execution.
        keys: of the items, in the same order.
        rows: what is stored of them.
        values: their results, once they are decoded.
    """

    __slots__ = ("keys", "positions", "rows", "values")

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.keys: list[Key] = []
        self.rows: list[Any] = []
        self.values: list[Any] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add_run(self, position: int, keys: Sequence[Key], rows: list[ItemRow]) -> None:
        """Add the items from *position* on."""
        self.positions += range(position, position + len(rows))
        self.keys += keys
        self.rows += rows


class ItemRunner:
    """Execute the items of one map. Usable from any thread.

    Args:
        name: of the map.
        ways_out: returns what to do about a stored result that does not fit its type.
        step_runner: has what says which results are out of date, once that is asked.
    """

    def __init__(
        self,
        name: str,
        options: LoopOptions,
        run: CurrentRun,
        services: Services,
        nested: NestedSteps,
        ways_out: Callable[[str, tuple[int, Key]], str],
        step_runner: StepRunner,
    ) -> None:
        self._name = name
        self._options = options
        self._run = run
        self._services = services
        self._nested = nested
        self._ways_out = ways_out
        self._step_runner = step_runner
        # The highest layer of what comes before the map.
        self._base = None if step_runner.layers is None else step_runner.layers.newest()

    def execute(self, task: Task) -> bool:
        """Execute an item once; return whether it has ended: it has a result or an error.

        If not, its ``wait_s`` says when it is executed again, or the run is to stop.

        Raises:
            BaseException: a signal in the caller's thread has raised it.
            ForkedError: this is a child that the item's function forked.
        """
        options, clock = self._options, self._services.clock
        task.wait_s = None
        task.started_at_us = clock.now_us()
        timeout_s = options.timeout_s
        tokens = current_step.set(self._name), current_item.set(task.key)
        deadline = current_deadline.set(
            None if timeout_s is None else clock.monotonic() + timeout_s
        )
        try:
            layers = self._step_runner.layers
            if layers is None:
                value = let_through(options.fn, task.item)
            else:
                value = self._called(task, layers)
            if os.getpid() != self._run.pid:
                self._run.refuse_forked_child()
            self._encode(task, value)
        except BaseException as exc:  # noqa: BLE001 - whatever an item raises is its outcome
            self._run.refuse_forked_child()
            return self._raised(task, exc)
        else:
            self._nested.outer_completed(self._name)
        finally:
            current_deadline.reset(deadline)
            current_item.reset(tokens[1])
            current_step.reset(tokens[0])
        self._complete(task)
        return True

    def _called(self, task: Task, layers: Layers) -> Any:
        # Steps inside of it come after nothing that is inside of other items.
        base = layers.newest() if self._base is None else self._base
        with layers.branch(layers.layer if task.is_replacing else base):
            return let_through(self._options.fn, task.item)

    def returned(self, task: Task, value: Any, began_us: int) -> bool:
        """Take the result of an item that was executed elsewhere; as ``execute``."""
        task.started_at_us = began_us
        task.wait_s = None
        try:
            self._encode(task, value)
        except Exception as exc:  # noqa: BLE001 - whatever the code of a result's class raises
            return self._raised(task, exc)
        self._nested.outer_completed(self._name)
        self._complete(task)
        return True

    def raised(self, task: Task, exc: BaseException, began_us: int) -> bool:
        """Take what an item has raised that was executed elsewhere; as ``execute``."""
        task.started_at_us = began_us
        task.wait_s = None
        return self._raised(task, exc)

    def check(self) -> None:
        """Raise if the run is to stop."""
        self._run.check()

    def await_stop(self, exc: BaseException) -> None:
        """Wait up to a second for a stop if *exc* says that a signal has ended a child process."""
        self._run.await_stop(self._services.clock, exc)

    def now_us(self) -> int:
        """Return the time of the wall clock in microseconds since the epoch."""
        return self._services.clock.now_us()

    def _encode(self, task: Task, value: Any) -> None:
        task.text, task.value = encoded(
            self._services,
            self._run,
            "storing an item",
            value,
            self._options.result_type,
            "the result of item",
            task.key,
        )

    def _complete(self, task: Task) -> None:
        task.exc = None
        task.attempts += 1
        task.completed_at_us = self._services.clock.now_us()
        task.item = None

    def _raised(self, task: Task, exc: BaseException) -> bool:
        run = self._run
        if run.is_callers_signal(exc):
            raise exc  # for example the user's Ctrl-C, not a failure of the item
        self._nested.outer_failed(self._name)
        if isinstance(exc, RetryAfter):
            task.exc = exc
            return False
        run.await_stop(self._services.clock, exc)
        if run.stop_reason in (RunInterrupted, RunSuspended, *NOT_OURS):
            return False  # it stopped itself, or failed because of the stop
        task.exc = exc
        task.attempts += 1
        task.failures += 1
        retry = self._options.retry
        if retry is not None and isinstance(exc, Exception):
            try:
                task.wait_s = next_wait_s(retry, exc, task.failures)
            except Exception as failure:
                if run.is_callers_signal(failure):
                    raise
                task.exc = failure
            if task.wait_s is not None:
                return False
        self.give_up(task)
        return True

    def give_up(self, task: Task) -> None:
        """Make what an item has raised its error."""
        assert task.exc is not None  # noqa: S101 - it has raised
        task.completed_at_us = self._services.clock.now_us()
        task.wait_s = None
        task.error_info = error_info(task.exc)
        task.error = self._services.codec.encode(
            stored_error(task.error_info), UNTYPED, what="the error of an item"
        )
        task.item = None

    def hold(self, task: Task, row: ItemRow, error: str) -> None:
        """Make the error that is stored of an item its own: it is not tried again now."""
        from durably.execution.loops.travel import stored_exception  # noqa: PLC0415 - where first needed

        task.is_held = True
        task.started_at_us, task.completed_at_us = row[6:8]
        task.error, task.item = error, None
        task.error_info = info = ErrorInfo(**self._services.codec.load_json(error))
        task.exc = stored_exception(info.type, info.message)

    def decode(self, reused: Reused) -> None:
        """Set the values of stored items.

        Raises:
            SerializationError: one does not fit the type of the results.
        """
        with suppress(ValidationError, SerializationError):
            reused.values = self._decoded(reused.keys, reused.rows, "")
            return
        # Again, with advice for which the database is read.
        rows = zip(reused.keys, reused.rows, strict=True)
        reused.values = [self._decoded_alone(key, row) for key, row in rows]

    def _decoded_alone(self, key: Key, row: Any) -> Any:
        with suppress(ValidationError, SerializationError):
            return self._decoded([key], [row], "")[0]
        advice = self._ways_out(self._name, (row[0], key))
        try:
            return self._decoded([key], [row], advice)[0]
        except ValidationError as exc:
            said = str(exc)
        raise SerializationError(said)

    def _decoded(self, keys: list[Key], rows: list[Any], advice: str) -> list[Any]:
        return self._services.codec.decode_all(
            [row[2] for row in rows],
            self._options.result_type,
            what=f"step {self._name!r}: the stored result of item",
            names=keys,
            advice=advice,
        )
