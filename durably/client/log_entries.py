"""Make the log lines of a run for users from rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from durably._platform.clock import to_datetime
from durably.client.unreadable import UNREADABLE, checked, raise_defect, readable
from durably.models.records import LogEntry
from durably.store import defects

if TYPE_CHECKING:
    from durably.store.read_rows import LogRow


def entries_of(rows: Iterable[LogRow], run_id: str) -> Iterator[LogEntry]:
    """Yield stored log lines; those that cannot be read are left out."""
    return readable(lambda row: _entry_of(row, run_id), rows)


def _entry_of(row: LogRow, run_id: str) -> LogEntry:
    try:
        return LogEntry(
            level=row.level,  # type: ignore[arg-type]  # the schema allows no other
            message=checked(row.message, _is_text),
            data=checked(row.data, _is_object),
            step_name=row.step_name,
            created_at=to_datetime(row.created_at_us),
        )
    except UNREADABLE as exc:
        what = f"log line {row.log} of run {run_id!a:.80}"
        raise_defect(exc, what, defects.of_log_line(row._asdict()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
