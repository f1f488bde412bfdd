"""Tables for pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

# Integers among values that are missing would become floats.
_AS_THEY_ARE: Final = ("payload", "output")
_TIME: Final = "datetime64[us, UTC]"


def pandas() -> Any:
    """Return the module pandas.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - optional dependency
    except ModuleNotFoundError as exc:
        raise ImportError(
            "to_frame() needs pandas, which is not installed: pip install pandas", name="pandas"
        ) from exc
    return pd


def frame(rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    """Return a frame with these columns, also if there are no rows.

    Errors become text. A column whose name ends with ``_at`` has instants in UTC.
    """
    pd = pandas()
    data = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        if name.endswith("_at"):
            data[name] = pd.Series(values, dtype=_TIME)
        elif name in _AS_THEY_ARE:
            data[name] = pd.Series(values, dtype=object)
        elif name == "error":
            data[name] = pd.Series([_error(value) for value in values], dtype=object)
        else:
            data[name] = pd.Series(values, dtype=None if rows else object)
    return pd.DataFrame(data)


def _error(value: Any) -> str | None:
    if not isinstance(value, dict):
        return value if value is None else str(value)
    return f"{value['type']}: {value['message']}" if value["message"] else str(value["type"])
