"""Make pictures of runs over time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import attrs

from durably.client.arguments import AnyRun
from durably.client.attempts import AttemptReader
from durably.client.query import Reader
from durably.models import short_name
from durably.rendering.timeline import Items, Lane, Stretch, Timeline

if TYPE_CHECKING:
    from durably.models.records import Attempt, StepRecord
    from durably.store.api import Store

# Into so many parts the time that was spent on a run is divided, to count the items of its maps.
_PARTS: Final = 200
_SHORTEST_PART_US: Final = 1000


@attrs.frozen(eq=False, repr=False)
class Timelines:
    """Read what was executed when. Usable from any thread."""

    _store: Store
    _reader: Reader
    _attempts: AttemptReader

    def timeline_of(self, run: AnyRun | str) -> Timeline:
        """Return a picture of a run, as it is now.

        Raises:
            NotFoundError: there is no such run.
            DatabaseError: the run cannot be read.
        """
        run = self._reader.require(run)
        attempts = [each for each in self._attempts.attempts_of(run) if each.started_at is not None]
        stretches = [stretch for each in attempts if (stretch := _stretch(each)) is not None]
        width_us = _width_us(run, stretches)
        lanes = [self._lane(run, step, width_us) for step in self._reader.steps_of(run)]
        is_open = run.status == "running"
        for row in self._store.open_maps(run.id):
            items = self._items(run, row.name, width_us)
            start = row.started_at_us / 1e6
            end = None if is_open else max([start, *(each.start for each in items)])
            status = "running" if is_open else "interrupted"
            lanes.append(Lane(row.name, status, start, end, "", items))
        name = short_name(run.id, run.job_name, run.idempotency_key)
        return Timeline(f"{name} {run.status}", lanes, stretches, items_s=width_us / 1e6)

    def _lane(self, run: AnyRun, step: StepRecord, width_us: int) -> Lane:
        items = [] if step.items is None else self._items(run, step.name, width_us)
        said = step.error or step.items
        return Lane(
            step.name,
            step.status,
            step.started_at.timestamp(),
            step.completed_at.timestamp(),
            "" if said is None else str(said),
            items,
        )

    def _items(self, run: AnyRun, name: str, width_us: int) -> list[Items]:
        counts = self._store.count_items_by_time(run.id, name, width_us)
        return [Items(start_us / 1e6, completed, failed) for start_us, completed, failed in counts]


def _stretch(attempt: Attempt) -> Stretch | None:
    """Return the time of an attempt; ``None`` if it is not known."""
    start, end = attempt.started_at, attempt.ended_at
    if start is None or (end is None and attempt.outcome != "running"):
        return None
    name = f"attempt {attempt.attempt}: {attempt.outcome}"
    return Stretch(name, start.timestamp(), None if end is None else end.timestamp())


def _width_us(run: AnyRun, stretches: list[Stretch]) -> int:
    now = datetime.now(UTC)
    spent_s = sum((each.end or now.timestamp()) - each.start for each in stretches)
    if not stretches and run.started_at is not None:
        spent_s = ((run.completed_at or now) - run.started_at).total_seconds()
    return max(_SHORTEST_PART_US, int(spent_s * 1e6) // _PARTS)
