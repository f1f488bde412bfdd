"""Bases of what shows itself: objects with HTML, and lists that are shown as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, SupportsIndex, TypeVar, cast, overload

from durably._platform.values import Value, as_dict, field_names

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

T = TypeVar("T")

MOST_ROWS: Final = 50
"""How many rows a table shows."""

Columns = tuple[tuple[str, str, str], ...]
"""What a table shows: for each column its title, its kind of cell, and the attribute's name.

The kinds are the functions of ``durably.rendering.cells``.
"""


class Shown:
    """Base of what IPython and Jupyter show as HTML; a subclass has ``_repr_html_``."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(
        self,
        include: object = None,  # noqa: ARG002 - of IPython's protocol, which applies it as well
        exclude: object = None,  # noqa: ARG002
    ) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


class Listing(list[T], Shown):
    """Base of lists of records. A slice is a list of the same kind.

    ``repr()`` is one line, which counts what is in it; a notebook shows a table of the first 50.
    """

    __slots__ = ()

    _record: ClassVar[type[Value]]
    _one: ClassVar[str]
    _columns: ClassVar[Columns]
    # The attribute that the line of ``repr`` counts by.
    _counted: ClassVar[str] = "status"
    # What the dicts have beside the record's fields.
    _more: ClassVar[tuple[str, ...]] = ()

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> T: ...
    @overload
    def __getitem__(self, index: slice, /) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> T | Self:
        found = super().__getitem__(index)
        return self.__class__(found) if isinstance(index, slice) else found  # type: ignore[arg-type,return-value]  # of a slice it is a list

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    def _summary(self) -> str:
        """Return how many there are of each kind, as ``30 runs: 28 completed, 2 failed``."""
        counts = Counter(str(getattr(each, self._counted)) for each in self)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return f"{several(len(self), self._one)}{': ' if kinds else ''}{kinds}"

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a dict of the attributes of each, in the list's order.

        .. versionadded:: 0.2.0
        """
        return [self._as_dict(each) for each in self]

    def _as_dict(self, record: T) -> dict[str, Any]:
        return as_dict(cast("Value", record))

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each and a column for each attribute.

        Errors are text; times are of the type ``datetime64[us, UTC]``.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        from durably.rendering.frames import frame  # noqa: PLC0415 - where first needed

        names = [name for name in field_names(self._record) if not name.startswith("_")]
        return frame(self.to_dict(), [*names, *self._more])

    def _repr_html_(self) -> str:
        from durably.rendering.tables import table  # noqa: PLC0415 - where first needed

        if not self:
            return table((), (), 0, caption=f"no {self._one}s")
        rows = rows_of(self._columns, self[:MOST_ROWS])
        return table([column[:2] for column in self._columns], rows, len(self))


def rows_of(columns: Columns, records: Iterable[object]) -> Sequence[Sequence[Any]]:
    """Return the attributes that the columns name, of each record."""
    return [[getattr(each, name, None) for _, _, name in columns] for each in records]


def several(count: int, one: str) -> str:
    """Return how many there are, as ``1 run`` or ``1,000 runs``."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"
