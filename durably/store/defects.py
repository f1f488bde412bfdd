"""Find what is wrong with a row that durably cannot have written, or that was damaged since.

The schema cannot forbid bytes that are not UTF-8 or text that is not JSON, and another program that
writes to the file can turn its constraints off. One such row must not keep the others from being
read and executed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from durably.codec.json_text import load
from durably.errors import DatabaseError
from durably.store import bounds
from durably.store.bounds import Bounds

logger = logging.getLogger("durably")

_STATUSES: Final = ("pending", "running", "completed", "failed", "cancelled")
OUTCOMES: Final = (
    "running",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
    "suspended",
    "died",
    "hung",
)
R = TypeVar("R")

# How many rows are kept in mind for which a warning was logged.
_MOST_REMEMBERED: Final = 1000


def unreadable(what: str, defect: str) -> DatabaseError:
    """Return the error for a row; *what* names it, *defect* is one that a function here found."""
    return DatabaseError(
        f"{what} cannot be read: {defect}, which durably never writes. Delete the run, or restore "
        "the database from a copy; durably.testing.check finds all such rows",
        is_of_row=True,
    )


def of_run(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a run, given by column, or ``None``."""
    return _number_outside(values, bounds.RUN) or _first_wrong(
        values,
        {
            "status": _STATUSES.__contains__,
            "kind": ("job", "session").__contains__,
            "payload": _is_json,
            "output": _is_json,
            "error": lambda text: is_error(_loaded(text)),
            "progress": lambda text: is_progress(_loaded(text)),
            "labels": lambda text: is_labels(_loaded(text)),
            "retry": is_retry,
        },
    )


def of_claimed(
    values: Mapping[str, Any], numbers: Mapping[str, Bounds] = bounds.KEPT_BY_A_CLAIM
) -> str | None:
    """Return why a run cannot be executed, or ``None``. The job checks the payload itself.

    Args:
        numbers: those to check; of a run that was not claimed all of ``bounds.RUN``.
    """
    defect = _number_outside(values, numbers)
    has_more = values["progress"] is not None or values["retry"] is not None
    if defect is None and (has_more or values["labels"] != "{}"):
        defect = _first_wrong(
            values,
            {
                "progress": lambda text: is_progress(_loaded(text)),
                "labels": lambda text: is_labels(_loaded(text)),
                "retry": is_retry,
            },
        )
    return defect


def of_attempt(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an attempt, given by column, or ``None``."""
    return _number_outside(values, bounds.ATTEMPT) or _first_wrong(
        values,
        {
            "outcome": OUTCOMES.__contains__,
            "error": lambda text: is_error(_loaded(text)),
            "unused_steps": lambda text: is_names(_loaded(text)),
        },
    )


def of_step(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a step, given by column, or ``None``."""
    return _number_outside(values, bounds.STEP) or _first_wrong(
        values,
        {
            "status": ("completed", "failed", "cancelled").__contains__,
            "output": _is_json,
            "error": lambda text: is_error(_loaded(text)),
        },
    )


def of_log_line(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a log line, given by column, or ``None``."""
    return _number_outside(values, bounds.LOG) or _first_wrong(
        values,
        {
            "level": ("debug", "info", "warning", "error").__contains__,
            "message": lambda text: isinstance(_loaded(text), str),
            "data": lambda text: isinstance(_loaded(text), dict),
        },
    )


def decoded(values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Decode a row whose text was read as bytes; return it, and which of it is not UTF-8."""
    found: dict[str, Any] = {}
    defect = None
    for name, value in values.items():
        if isinstance(value, bytes):
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                found[name] = value.decode(errors="backslashreplace")
                defect = defect or f"its {name} contains bytes that are not valid UTF-8"
        else:
            found[name] = value
    return found, defect


def legible(rows: Iterable[R], what: Callable[[R], str]) -> list[R]:
    """Decode named tuples whose text was read as bytes; leave out and note what is not UTF-8.

    Args:
        what: names a row.
    """
    found: list[R] = []
    for each in rows:
        row: Any = each
        values, defect = decoded(row._asdict())
        row = type(row)(**values)
        if defect is None:
            found.append(row)
        else:
            note(str(unreadable(what(row), defect)))
    return found


def _number_outside(values: Mapping[str, Any], columns: Mapping[str, Bounds]) -> str | None:
    for name, (least, most) in columns.items():
        value = values.get(name)
        if value is not None and not least <= value <= most:
            return f"its {name} is {value}"
    return None


def _first_wrong(
    values: Mapping[str, Any], columns: dict[str, Callable[[Any], bool]]
) -> str | None:
    for name, is_right in columns.items():
        value = values.get(name)
        if value is not None and not is_right(value):
            # The value is not shown: it may be secret.
            return f"its {name} is not {'one' if _is_json(value) else 'JSON'}"
    return None


_NOTHING: Final = object()


def _loaded(text: str) -> Any:
    try:
        return load(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _is_json(text: str) -> bool:
    return _loaded(text) is not _NOTHING


def is_error(value: Any) -> bool:
    """Return whether a value from the file is an error in the form that durably writes."""
    return (
        isinstance(value, dict)
        and value.keys() >= {"type", "message", "traceback"}
        and value.keys() <= {"type", "message", "traceback", "notes", "failed_step"}
        and all(isinstance(value[name], str) for name in ("type", "message", "traceback"))
        and isinstance(notes := value.get("notes", []), list)
        and all(isinstance(note, str) for note in notes)
        and isinstance(value.get("failed_step"), str | None)
    )


def is_progress(value: Any) -> bool:
    """Return whether a value from the file is a progress in the form that durably writes."""
    return (
        isinstance(value, dict)
        and value.keys() == {"current", "total", "message"}
        and isinstance(value["current"], int | float)
        and isinstance(value["total"], int | float | None)
        and isinstance(value["message"], str | None)
    )


def is_retry(text: str) -> bool:
    """Return whether a text from the file says how a run is tried again, as durably writes it."""
    from durably.settings.retries import loaded_retry  # noqa: PLC0415 - where first needed

    try:
        loaded_retry(text)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def is_names(value: Any) -> bool:
    """Return whether a value from the file is an array of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_labels(value: Any) -> bool:
    """Return whether a value from the file is an object whose values are texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


# -- warnings ----------------------------------------------------------------------------------

# Warnings to log later, not within a transaction or a read: a log handler of the user's may call
# the engine.
noted: Final[deque[str]] = deque(maxlen=_MOST_REMEMBERED)
_warned: Final[dict[str, None]] = {}


def note(text: str) -> None:
    """Note a warning about a row, to be logged once, when this thread does not use the database."""
    noted.append(text)


def log_noted() -> None:
    """Log the noted warnings."""
    while noted:
        try:
            text = noted.popleft()
        except IndexError:
            return  # another thread was faster
        if text not in _warned:
            if len(_warned) >= _MOST_REMEMBERED:
                _warned.clear()
            _warned[text] = None
            logger.warning("%s", text)
