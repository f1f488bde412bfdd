"""One execution of a map, from its first item to the end that is stored."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from durably._platform.unhandled import show_stop_alone
from durably.codec import UNTYPED
from durably.errors import DatabaseError, StopRun, ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.live import LoopView
from durably.execution.loops.driver import Driver
from durably.execution.loops.loop_events import LoopEvents
from durably.execution.loops.map_log import MapLog
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.outdated import OutdatedItems
from durably.execution.loops.record import MapRecord
from durably.execution.loops.results import MapResult, Results
from durably.execution.loops.source import Source
from durably.execution.loops.stored_items import StoredItems
from durably.execution.loops.tasks import ItemRunner, Reused, Task
from durably.execution.services import Services
from durably.execution.step_recorder import NOT_OURS, StepRecorder
from durably.execution.step_runner import StepRunner
from durably.models import error_info

logger = logging.getLogger("durably")


class Loop:
    """One execution of a map, driven by the thread that iterates over it."""

    def __init__(
        self,
        name: str,
        options: LoopOptions,
        run: CurrentRun,
        services: Services,
        step_runner: StepRunner,
    ) -> None:
        self._name = name
        self.options = options
        self._run = run
        self._services = services
        self._step_runner = step_runner
        self._recorder: StepRecorder = step_runner.recorder
        self._started_s = services.clock.monotonic()
        self._has_started = False
        self._map_log = MapLog(
            name,
            run,
            services.clock,
            file=services.file,
            total=options.total,
            workers=options.max_workers or 1,
        )
        # Whether the caller waits for each item.
        self.is_iterated = False

    def results(self) -> MapResult[Any]:
        """Execute the map; return its results."""
        options = self.options
        results = Results(
            is_keyed=options.key is not None, with_failed=options.on_failed == "return"
        )
        with closing(self.batches()) as batches:
            for batch in batches:
                results.add(batch)
        return results.result()

    def batches(
        self, may_begin: Callable[[int], bool] = lambda _: True, *, stored_first: bool = False
    ) -> Generator[list[Task] | Reused]:
        """Yield the items that have ended, in batches, in the order in which they are stored.

        Args:
            may_begin: returns whether an item at that position may begin now.
            stored_first: whether those from checkpoints come before any other begins.

        Raises:
            ItemsFailedError: some have failed, after all have ended.
        """
        index = self._step_runner.begin_map(self._name)
        try:
            yield from self._batches(self._prepared(index, may_begin, stored_first=stored_first))
        except BaseException as exc:
            self._run.keep_callers_signal(exc)
            raise
        finally:
            self._step_runner.end_turn(self._name)

    def _batches(self, driver: Driver) -> Iterator[list[Task] | Reused]:
        self._step_runner.note_map(self._name)

        def view() -> LoopView:
            record = self._record
            total = record.total
            if total is None and self._source.is_exhausted:
                total = self._source.read
            return LoopView(
                self._name,
                record.done,
                record.failed,
                record.reused,
                total,
                self.options.max_workers or 1,
                driver.limited_s,
            )

        self._run.loops.append(view)
        try:
            yield from self._driven(driver)
        finally:
            self._run.loops.remove(view)
            self._run.last_loop = view()
            self._note_layer()

    def _note_layer(self) -> None:
        """Note what comes before the next steps: this map, as it was executed or found."""
        layers = self._step_runner.layers
        if layers is None:
            return
        if self._found is None or self._is_executed():
            layers.use(layers.layer if self._made is None else self._made[0])
        else:
            layers.use(self._found.layer)

    def _is_executed(self) -> bool:
        """Return whether the map is not just as it was found: completed, of the same items."""
        found = self._found
        if self._has_started or found is None or found.status != "completed":
            return True
        if self._outdated is None or not self._source.is_exhausted:
            return False
        return self._outdated.has_others(self._source.hash_of_read)

    def _note_of_map(self, verb: Callable[..., bool], *args: Any) -> None:
        """Store something of the map that was found, for this claim."""
        assert self._found is not None  # noqa: S101 - there is nothing to note of another one
        run = self._run
        self._recorder.stored(verb, run.run_pk, run.fence, self._found.map, *args)

    def _driven(self, driver: Driver) -> Iterator[list[Task] | Reused]:
        try:
            for batch in driver.batches():
                self._note(batch)
                yield batch
            stored, left = driver.finish()
            driver.check()
            if stored:
                self._note(stored)
                yield stored
            error = self._error(driver)
            self._end(left, error)
            self._say_ended(driver)
        except BaseException as exc:
            if os.getpid() == self._run.pid:
                self._leave(driver, exc)
            raise
        if left:
            self._note(left)
            yield left
        self._emit_end(error)
        self._events.warn_of_changes(self._source.changed)
        if error is not None:
            raise error

    def _prepared(
        self, index: int, may_begin: Callable[[int], bool], *, stored_first: bool
    ) -> Driver:
        options, run, services = self.options, self._run, self._services
        if options.result_type is not UNTYPED:
            services.codec.require_storable(
                options.result_type, what="the results of step", name=self._name
            )
        checkpoints, read = services.checkpoints, self._recorder.read
        is_keyed = options.key is not None

        def found() -> Any:
            return read(checkpoints.find_map, run.run_pk, self._name)

        self._found = found() if self._step_runner.may_hold_map(self._name) else None
        if self._found is not None and self._found.is_keyed and not is_keyed:
            raise ValidationError(
                f"{options.what}: the items of this map are stored by key; pass the same key= as "
                "before, or give the map another name"
            )
        stored = self._stored = StoredItems(
            checkpoints,
            self._found,
            read,
            is_keyed=is_keyed,
            map_number=lambda: getattr(found(), "map", None),
            what=options.what,
            is_layered=options.on_change == "redo",
        )
        self._code = self._step_runner.changes.of(options.fn)
        self._map_code = self._code if self._found is None else self._found.code
        layers = self._step_runner.layers
        self._made: tuple[int, int | None] | None = None if layers is None else (layers.layer, None)
        self._outdated: OutdatedItems | None = None
        if layers is not None and options.on_change == "redo":
            inputs = layers.hash_of((), {}, options.depends_on)
            self._outdated = OutdatedItems(
                self._found, self._code, inputs, layers.newest(), checkpoints, self._note_of_map
            )
            self._made = layers.layer, self._outdated.inputs
        self._record = MapRecord(
            run,
            services,
            name=self._name,
            step_index=index if self._found is None else self._found.step_index,
            is_keyed=is_keyed,
            total=options.total,
            code=self._code,
            item_code=None if self._map_code == self._code else self._code,
            outer=self._step_runner.outer(),
            made=self._made,
        )
        self._events = LoopEvents(options, run, services, self._record, self._recorder)
        self._map_log.begins(self._count_stored)
        runner = ItemRunner(
            *(self._name, options, run, services, self._step_runner.nested),
            self._step_runner.changes.ways_out,
            self._step_runner,
        )
        is_out_of_date = None if self._outdated is None else self._outdated.has
        self._source = Source(options, stored, run, services.clock, runner.hold, is_out_of_date)
        return Driver(
            options,
            run,
            services,
            source=self._source,
            runner=runner,
            record=self._record,
            recorder=self._recorder,
            map_log=self._map_log,
            on_begin=self._start,
            may_begin=may_begin,
            reads_ahead=stored_first,
            is_iterated=self.is_iterated,
        )

    def _count_stored(self) -> tuple[int, int]:
        """Return how many results and how many failures of items are stored."""
        counts: tuple[int, int] | None = None
        if self._found is not None:
            count_items = self._services.checkpoints.count_items
            counts = self._recorder.read(count_items, self._run.run_pk, self._name)
        return counts or (0, 0)

    # -- while it is executed --------------------------------------------------------------------

    def _start(self) -> None:
        self._has_started = True
        self._started_s = self._services.clock.monotonic()
        self._events.emit("step:start")

    def _note(self, batch: list[Task] | Reused) -> None:
        """Count items that are stored; emit those that were executed."""
        if isinstance(batch, Reused):
            self._record.reuse(len(batch))
            if self._outdated is not None:
                self._outdated.note_used()
            elif self._found is not None:
                changes = self._step_runner.changes
                self._events.warn_of_code(batch, self._found, self._code, changes)
        else:
            is_heard = self._services.emitter.has_listeners
            layers = self._step_runner.layers
            for task in batch:
                self._stored.note_stored(task.key)
                if task.is_replacing and task.text is None and layers is not None:
                    layers.fail(self._name)
                if is_heard and not task.is_held:
                    self._events.item(task)
        self._events.progress()

    # -- how it ends -----------------------------------------------------------------------------

    def _error(self, driver: Driver) -> BaseException | None:
        failures = driver.failures
        if failures.fatal is not None:
            return failures.fatal
        if failures.count and (self.options.on_failed == "raise" or driver.is_early):
            return failures.error(self._total_seen(), is_early=driver.is_early)
        return None

    def _total_seen(self) -> int:
        """Return how many items there are, as far as they were read or counted."""
        return max(self._record.total or 0, self._source.read)

    def _say_ended(self, driver: Driver) -> None:
        record, source = self._record, self._source
        self._map_log.ended(
            record.done,
            source.read if source.is_exhausted else self._total_seen(),
            reused=record.reused,
            failed=driver.failures.count,
            kinds=driver.failures.kinds,
        )

    def _end(self, left: list[Task], error: BaseException | None) -> None:
        """Store the last items and how the map has ended."""
        if error is not None:
            is_stored = self._record.fail(left, error)
        elif self._is_executed():
            items = None if self._outdated is None else self._source.hash_of_read
            is_stored = self._record.complete(left, items)
        else:
            if self._outdated is not None:
                self._outdated.note_items(self._source.hash_of_read)
            return
        if not is_stored:
            self._recorder.lose()
            self._run.check()

    def _leave(self, driver: Driver, exc: BaseException) -> None:
        """Store what has ended of a map that does not come to its end."""
        run, record = self._run, self._record
        run.stop_by_signal(exc)
        is_signalled = run.is_callers_signal(exc)
        is_threaded = self.options.executor is not None or (self.options.max_workers or 1) > 1
        if is_signalled and is_threaded:
            show_stop_alone(exc)  # the frames of the thread that drives say nothing of it

        def say_stopping() -> None:
            if is_signalled:
                self._map_log.stopping(len(driver.executing), record.done)

        # Processes do not end the items that they are at after Ctrl-C, or without the run.
        is_abrupt = is_signalled or run.stop_reason in NOT_OURS
        _, left = driver.finish(is_abrupt=is_abrupt, on_wait=say_stopping)
        if run.stop_reason in NOT_OURS:
            if record.cancel():
                self._events.emit("step:cancel")
            return
        is_interrupted = isinstance(exc, StopRun | GeneratorExit) or is_signalled
        try:
            if is_interrupted:
                if left:
                    record.save(left)
                return
            if self._has_started or not isinstance(exc, ValidationError):
                record.fail(left, exc)  # else its arguments are wrong, and it has not begun
        except (DatabaseError, StopRun) as failure:
            logger.warning("the last items of step %r could not be stored: %s", self._name, failure)
        self._has_failed(exc)

    def _has_failed(self, exc: BaseException) -> None:
        self._run.failed_steps.append((self._name, exc))
        self._events.emit("step:fail", error=error_info(exc))

    def _emit_end(self, error: BaseException | None) -> None:
        if error is not None:
            self._has_failed(error)
            return
        is_executed = self._is_executed()
        self._step_runner.map_completed(
            self._name, self._record.step_index, is_executed=is_executed
        )
        if not is_executed:
            self._events.emit("step:skip")
            return
        if not self._has_started:
            self._start()
        duration = self._services.clock.monotonic() - self._started_s
        self._events.emit("step:complete", output=None, duration=duration)
