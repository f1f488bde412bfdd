"""Answer for the runs of one engine: what ``run.steps``, ``run.result()`` and the like ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from durably._platform.signals import door
from durably.client.arguments import AnyRun, OnLog, OnProgress
from durably.client.query import Reader
from durably.client.wait import Waiter
from durably.codec import Codec
from durably.settings import Duration

if TYPE_CHECKING:
    from durably.client.by_hand import ByHand
    from durably.client.control import Control
    from durably.jobs import Job
    from durably.models.plans import Plan
    from durably.models.records import (
        AttemptList,
        ItemList,
        ItemRecord,
        ItemStatus,
        LogList,
        StepList,
    )
    from durably.rendering.timeline import Timeline
    from durably.store.api import Store


@door
@attrs.frozen(eq=False, repr=False, slots=False)
class Answers:
    """What an engine is asked, by itself and by the runs that came from it.

    Usable from any thread. Every call raises if the engine cannot be used any more.
    """

    _check: Callable[[], None]
    _store: Store
    _codec: Codec
    _reader: Reader
    _waiter: Waiter
    _control: Callable[[], Control]
    _by_hand: Callable[[], ByHand]
    _flush_log_lines: Callable[[], object]

    @property
    def path(self) -> str:
        """Return the real path of the file."""
        return self._store.path

    def wait(
        self,
        run: AnyRun | str,
        timeout: Duration | None,
        on_progress: OnProgress | None,
        on_log: OnLog | None,
    ) -> AnyRun:
        """Block until the run has completed, and return it."""
        self._check()
        return self._waiter.wait_for(run, timeout, on_progress, on_log)

    def read(self, run: AnyRun) -> AnyRun:
        """Return the run as it is now, for a caller to see."""
        self._check()
        return self._reader.require(run)

    def steps(self, run: AnyRun | str) -> StepList:
        """Return the records of the run's steps."""
        self._check()
        return self._reader.steps_of(run)

    def items(
        self,
        run: AnyRun | str,
        name: str,
        status: ItemStatus | None,
        limit: int | None,
        offset: int,
    ) -> ItemList:
        """Return the records of the items of a map."""
        from durably.client.items import ItemReader  # noqa: PLC0415 - where first needed

        self._check()
        return ItemReader(self._store, self._codec, self._reader).items_of(
            run, name, status, limit, offset
        )

    def attempts(self, run: AnyRun | str) -> AttemptList:
        """Return how the run was executed."""
        from durably.client.attempts import AttemptReader  # noqa: PLC0415 - where first needed

        self._check()
        return AttemptReader(self._store, self._reader).attempts_of(run)

    def logs(self, run: AnyRun | str) -> LogList:
        """Return the persisted log lines of the run, those of this process included."""
        self._check()
        self._flush_log_lines()
        return self._reader.logs_of(run)

    def timeline(self, run: AnyRun | str) -> Timeline:
        """Return a picture of the run's steps over time."""
        from durably.client.attempts import AttemptReader  # noqa: PLC0415 - where first needed
        from durably.client.timelines import Timelines  # noqa: PLC0415 - where first needed

        self._check()
        attempts = AttemptReader(self._store, self._reader)
        return Timelines(self._store, self._reader, attempts).timeline_of(run)

    def plan(self, run: AnyRun | str, job: Job[Any, Any] | None = None) -> Plan:
        """Return which results of the run are stored, and by which code."""
        from durably.client.plans import Planner  # noqa: PLC0415 - where first needed

        self._check()
        return Planner(self._store, self._reader).plan_of(run, job)

    def cancel(self, run: AnyRun | str) -> None:
        """Cancel the run."""
        self._check()
        self._control().cancel(run)

    def retry(
        self, run: AnyRun | str, only: str | Callable[[ItemRecord], object] | None = None
    ) -> AnyRun:
        """Put the run back to pending, and return it."""
        self._check()
        if only is not None:
            return self._by_hand().retry_items(run, only)
        return self._control().retry(run)

    def redo(self, run: AnyRun | str, from_step: str | None, only: str | None) -> AnyRun:
        """Forget results of the run, make it pending, and return it."""
        self._check()
        return self._by_hand().redo(run, from_step, only)

    def fork(
        self, run: AnyRun | str, from_step: str | None, payload: Any, key: str | None
    ) -> AnyRun:
        """Store a new run with copies of the results of the run, and return it."""
        self._check()
        return self._by_hand().fork(run, from_step, payload, key)

    def set_step(self, run: AnyRun | str, name: str, value: Any) -> None:
        """Set the result of a step of the run."""
        self._check()
        self._by_hand().set_step(run, name, value)

    def set_item(self, run: AnyRun | str, name: str, key: str | int, value: Any) -> None:
        """Set the result of an item of a map of the run."""
        self._check()
        self._by_hand().set_item(run, name, key, value)
