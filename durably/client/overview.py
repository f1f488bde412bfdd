"""How many runs there are of each job and status, as an engine and a handle show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from durably._platform.displayable import displayable
from durably.rendering.bases import MOST_ROWS

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    from durably.store.api import Store
    from durably.store.read_rows import Filters, StatusCount

# Counting so many takes a few hundredths of a second, whatever the size of the file.
MOST_COUNTED: Final = 100_000

_MOST_ON_A_LINE: Final = 5
_TITLES: Final = ("job_name", "status", "runs")


@attrs.frozen(eq=False, repr=False)
class Overview:
    """The number of runs by job and status, among the newest ones."""

    _counts: Sequence[StatusCount]

    @classmethod
    def of(cls, store: Store, filters: Filters) -> Overview:
        """Count the runs that fit."""
        return cls(store.count_by_status(filters, MOST_COUNTED))

    def by_job(self) -> dict[str, dict[str, int]]:
        """Return the number of runs by status, for each job that has any."""
        found: dict[str, dict[str, int]] = {}
        for name, status, count in self._counts:
            found.setdefault(name, {})[status] = count
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each job and status."""
        from durably.rendering.frames import frame  # noqa: PLC0415 - where first needed

        return frame([dict(zip(_TITLES, row, strict=True)) for row in self._counts], _TITLES)

    def fields(self) -> list[tuple[str, str, Any]]:
        """Return the fields of a card, one for each of the first jobs."""
        jobs = list(self.by_job().items())
        return [(name, "counts", counts) for name, counts in jobs[:MOST_ROWS]]

    def line(self) -> str:
        """Return the same on one line of text, as ``crawl: 1 failed; imports: 12 completed``."""
        parts = [
            f"{displayable(name, 60)}: "
            + ", ".join(f"{count:,} {status}" for status, count in counts.items())
            for name, counts in list(self.by_job().items())[:_MOST_ON_A_LINE]
        ]
        more = len(self.by_job()) - _MOST_ON_A_LINE
        if more > 0:
            parts.append(f"{more:,} more jobs")
        if sum(each.runs for each in self._counts) >= MOST_COUNTED:
            parts.append(f"of the newest {MOST_COUNTED:,} runs")
        return "; ".join(parts) or self.note()

    def note(self) -> str:
        """Return what the fields do not say."""
        if not self._counts:
            return "no runs yet"
        more = len(self.by_job()) - MOST_ROWS
        parts = [f"… {more:,} more jobs"] if more > 0 else []
        if sum(each.runs for each in self._counts) >= MOST_COUNTED:
            parts.append(f"of the newest {MOST_COUNTED:,} runs")
        return "; ".join(parts)
