"""Plans: what a run has stored, and whether today's code would make the same."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from durably._platform.safe_repr import on_one_line
from durably._platform.values import Value, as_dict
from durably.models.records import Record
from durably.rendering.bases import MOST_ROWS, Columns, Listing, Shown, rows_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

_COLUMNS: Final[Columns] = (
    ("#", "number", "index"),
    ("step", "name", "name"),
    ("stored", "when", "stored_at"),
    ("", "status", "_code"),
    ("function", "name", "function"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PlannedStep(Record):
    """A step whose result is stored, and whether its function is still the same.

    ``function`` is the module and the qualified name of the function that has made the result;
    ``None`` for one with defaults that is defined inside of another one, such as a ``lambda``.
    ``code_changed`` is ``None`` if that cannot be known: nothing was stored of the function, or it
    is not found by its name, as one that is defined inside of another one.

    .. versionadded:: 0.2.0
    """

    name: str
    index: int
    stored_at: datetime
    function: str | None
    code_changed: bool | None

    _columns = _COLUMNS

    @property
    def _code(self) -> str:
        return {True: "changed", False: "unchanged", None: "unknown"}[self.code_changed]


class PlannedStepList(Listing[PlannedStep]):
    """Planned steps, in the order of their index. A slice is a ``PlannedStepList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = PlannedStep, "step", _COLUMNS
    _counted = "_code"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Plan(Value, Shown):
    """Which results of a run are stored, and which of them other code has made than today's.

    ``code_changed`` is that of the job's own function, since the newest execution; ``None`` if it
    cannot be known, as where the job is not registered. ``repr()`` is one line, and a notebook
    shows a table.

    .. versionadded:: 0.2.0
    """

    run_id: str
    job_name: str
    code_changed: bool | None
    steps: PlannedStepList

    def __repr__(self) -> str:
        return f"<Plan of {self._what}>"

    @property
    def _what(self) -> str:
        name = f"…{self.run_id[-4:]} {on_one_line(self.job_name, 80)}"
        changed = ", whose job has changed" if self.code_changed else ""
        return f"{name}{changed}: {self.steps._summary()}"  # noqa: SLF001 - of its list

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name; ``steps`` is a list of dicts.

        .. versionadded:: 0.2.0
        """
        return {**as_dict(self), "steps": self.steps.to_dict()}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each step.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        return self.steps.to_frame()

    def _repr_html_(self) -> str:
        from durably.rendering.tables import table  # noqa: PLC0415 - where first needed

        rows = rows_of(_COLUMNS, self.steps[:MOST_ROWS])
        columns = [column[:2] for column in _COLUMNS]
        return table(columns, rows, len(self.steps), caption=self._what)
