"""The result of a map: a list with keys, and what has failed."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import attrs

from durably._platform.clock import to_datetime
from durably.execution.loops.tasks import Reused, Task
from durably.models import ErrorInfo
from durably.models.records import ItemList, ItemRecord
from durably.rendering.bases import MOST_ROWS, Shown

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    from durably.store.item_rows import Key

T = TypeVar("T")

_MISSING: Final = object()
_LONGEST_REPR: Final = 100

_COLUMNS: Final = (
    ("", "status"),
    ("item", "name"),
    ("result / error", "outcome"),
    ("took", "seconds"),
    ("attempts", "number"),
)


class MapResult(list[T], Shown):
    """The results of the completed items of a map, in the order of its items.

    It is a list, with a ``repr()`` of one line. ``MapResult`` is what ``step.map`` returns.

    Attributes:
        failed: the records of the items that have failed, in the order of the items; only with
            ``on_failed="return"``.
        reused: how many of the results came from checkpoints.

    .. versionadded:: 0.2.0
    """

    def __init__(
        self,
        results: Sequence[T] = (),
        *,
        keys: Sequence[Key] = (),
        failed: Sequence[ItemRecord] = (),
        reused: int = 0,
        rows: _Rows | None = None,
    ) -> None:
        super().__init__(results)
        self._fill(keys, failed, reused=reused, rows=_Rows() if rows is None else rows)

    def _fill(
        self, keys: Sequence[Key], failed: Sequence[ItemRecord], *, reused: int, rows: _Rows
    ) -> None:
        # A range takes no memory: the positions are what most maps have for keys.
        self._keys: Sequence[Key] = keys if isinstance(keys, range) else list(keys)
        self.failed = ItemList(failed)
        self.reused = reused
        self._rows = rows

    @property
    def keys(self) -> list[Key]:
        """Return the key of each result; its position, if the map has no ``key``.

        .. versionadded:: 0.2.0
        """
        if not isinstance(self._keys, list):
            self._keys = list(self._keys)
        return self._keys

    @property
    def by_key(self) -> dict[Key, T]:
        """Return a new dict of the results by key.

        .. versionadded:: 0.2.0
        """
        return dict(zip(self._keys, self, strict=False))

    def __repr__(self) -> str:
        from durably.rendering.words import value_text  # noqa: PLC0415 - where first needed

        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"MapResult({value_text(list(self), _LONGEST_REPR)}{failed})"

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a dict for each item, in the order of the items.

        It has the key, the status, the fields of the result (``result`` if it has none), the error
        as text, the seconds of the last try, and the number of tries.

        .. versionadded:: 0.2.0
        """
        return [
            {
                "key": row.key,
                "status": row.status,
                **({} if row.error is not None else _fields_of(row.result)),
                "error": None if row.error is None else str(row.error),
                "seconds": row.seconds,
                "attempts": row.attempts,
            }
            for row in self._each()
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row for each item, in the order of the items.

        Its columns are the key, the status, the fields of the results (``result`` if they have
        none), the error as text, the seconds of the last try, and the number of tries.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        from durably.rendering.frames import pandas  # noqa: PLC0415 - where first needed

        rows = self.to_dict()
        frame = pandas().DataFrame(rows)
        last = ["error", "seconds", "attempts"]
        first = [name for name in frame.columns if name not in last]
        return frame[first + last] if rows else frame

    def _repr_html_(self) -> str:
        from durably.rendering.tables import table  # noqa: PLC0415 - where first needed

        total = len(self._rows.are_failed) or len(self)
        rows = [
            (row.status, row.key, (row.error, row.result), row.seconds, row.attempts)
            for row in itertools.islice(self._each(), MOST_ROWS)
        ]
        return table(_COLUMNS, rows, total, caption="" if total else "no items")

    def _each(self) -> Iterator[_Row]:
        """Yield what is known of each item, in the order of the items."""
        rows = self._rows
        results = iter(zip(self._keys, self, strict=False))
        failed = iter(self.failed)
        for position, is_failed in enumerate(rows.are_failed):
            seconds, attempts = rows.seconds[position], rows.attempts[position]
            if is_failed:
                record = next(failed, None)
                if record is not None:
                    yield _Row(record.key, "failed", None, record.error, seconds, attempts)
            else:
                key, result = next(results, (None, None))
                yield _Row(key, "completed", result, None, seconds, attempts)


class _Row(NamedTuple):
    """One item of a map, for a table."""

    key: Key | None
    status: str
    result: Any
    error: ErrorInfo | None
    seconds: float
    attempts: int


@attrs.define(eq=False, repr=False)
class _Rows:
    """What is known of each item beside its result, by position, in a few bytes."""

    seconds: array[float] = attrs.field(factory=lambda: array("f"))
    attempts: array[int] = attrs.field(factory=lambda: array("I"))
    are_failed: bytearray = attrs.field(factory=bytearray)


def _fields_of(result: Any) -> dict[str, Any]:
    if isinstance(result, dict) and all(isinstance(name, str) for name in result):
        fields = dict(result)
    elif attrs.has(type(result)):
        fields = {field.name: getattr(result, field.name) for field in attrs.fields(type(result))}
    elif hasattr(type(result), "__dataclass_fields__"):
        fields = {name: getattr(result, name) for name in type(result).__dataclass_fields__}
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        fields = dict(zip(result._fields, result, strict=True))
    else:
        return {"result": result}
    own = {"key", "status", "error", "seconds", "attempts"}
    return {f"result.{name}" if name in own else name: value for name, value in fields.items()}


class Results:
    """Collect the results of a map, which come in any order.

    Args:
        is_keyed: whether the items have keys other than their positions.
        with_failed: whether to keep the records of failed items.
    """

    def __init__(self, *, is_keyed: bool, with_failed: bool) -> None:
        self._with_failed = with_failed
        # Filled in place: a second list of a million results would take 8 MiB.
        self._values: MapResult[Any] = MapResult()
        self._keys: list[Any] | None = [] if is_keyed else None
        self._rows = _Rows()
        self._failed: list[tuple[int, ItemRecord]] = []
        self._reused = 0

    def add(self, batch: Sequence[Task] | Reused) -> None:
        """Add items that have ended."""
        self._make_room(1 + max(positions_of(batch)))
        if isinstance(batch, Reused):
            self._add_reused(batch)
            return
        rows = self._rows
        for task in batch:
            position = task.position
            if self._keys is not None:
                self._keys[position] = task.key
            rows.seconds[position] = (task.completed_at_us - task.started_at_us) / 1e6
            rows.attempts[position] = task.attempts
            if task.text is None:
                rows.are_failed[position] = True
                if self._with_failed:
                    self._failed.append((position, record_of(task)))
            else:
                self._values[position] = task.value

    def _make_room(self, count: int) -> None:
        rows = self._rows
        more = count - len(self._values)
        if more > 0:
            self._values.extend([_MISSING] * more)
            if self._keys is not None:
                self._keys.extend([None] * more)
            rows.seconds.extend([0.0] * more)
            rows.attempts.extend([0] * more)
            rows.are_failed.extend(bytes(more))

    def _add_reused(self, reused: Reused) -> None:
        self._reused += len(reused)
        values, keys = self._values, self._keys
        seconds, attempts = self._rows.seconds, self._rows.attempts
        for position, row, value in zip(reused.positions, reused.rows, reused.values, strict=True):
            values[position] = value
            seconds[position] = (row[7] - row[6]) / 1e6
            attempts[position] = row[4]
        if keys is not None:
            for position, key in zip(reused.positions, reused.keys, strict=True):
                keys[position] = key

    def result(self) -> MapResult[Any]:
        """Return what was added, in the order of the items. Called once."""
        found = self._values
        keys: Sequence[Any] = range(len(found)) if self._keys is None else self._keys
        if self._failed:
            kept = [position for position, value in enumerate(found) if value is not _MISSING]
            keys = [keys[position] for position in kept]
            found[:] = [found[position] for position in kept]
        self._failed.sort(key=lambda each: each[0])
        found._fill(  # noqa: SLF001 - its own
            keys, [record for _, record in self._failed], reused=self._reused, rows=self._rows
        )
        return found


def record_of(task: Task) -> ItemRecord:
    """Return the record of an item that has ended, with its decoded result."""
    return ItemRecord(
        key=task.key,
        index=task.index,
        status="failed" if task.text is None else "completed",
        output=task.value,
        error=task.error_info,
        attempts=task.attempts,
        started_at=to_datetime(task.started_at_us),
        completed_at=to_datetime(task.completed_at_us),
    )


def records_of(batch: list[Task] | Reused) -> Iterator[ItemRecord]:
    """Return the records of items that have ended, each made when it is asked for."""
    if isinstance(batch, Reused):
        return map(_reused_record, batch.keys, batch.rows, batch.values)
    return map(record_of, batch)


def positions_of(batch: Sequence[Task] | Reused) -> Sequence[int]:
    """Return the positions of items, in their order."""
    return batch.positions if isinstance(batch, Reused) else [task.position for task in batch]


def _reused_record(key: Key, row: tuple[Any, ...], value: Any) -> ItemRecord:
    return ItemRecord(
        key=key,
        index=row[0],
        status="completed",
        output=value,
        error=None,
        attempts=row[4],
        started_at=to_datetime(row[6]),
        completed_at=to_datetime(row[7]),
    )
