"""What a job tells while it runs: structured log lines, also as they are stored, and progress."""

from __future__ import annotations

import contextvars
import json
import logging
from contextlib import suppress
from typing import Any, Final

from durably.active import ActiveRun, Services
from durably.clock import from_datetime
from durably.errors import ValidationError
from durably.events import LogWritten
from durably.models import LogLevel
from durably.shown import type_name
from durably.store import logs

NUMBERS: Final = frozenset({int, float})

# The step that the present thread is inside of.
current_step: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "durably_current_step", default=None
)


class StepLog:
    """Structured log lines of a run: ``step.log.info("read", rows=12)``.

    Each is told as a ``log:write`` event, passed to ``logging.getLogger("durably.job.<name>")``,
    and attributed to the step that the calling thread is in. Usable from any thread, also after
    the run has ended. Never raises for what it is given.

    .. versionadded:: 0.1.0
    """

    def __init__(self, active: ActiveRun, services: Services) -> None:
        self._active = active
        self._services = services
        self._logger: logging.Logger | None = None  # most runs write no line

    def debug(self, message: str, /, **data: Any) -> None:
        """Write a line of level debug.

        .. versionadded:: 0.1.0
        """
        self._write("debug", logging.DEBUG, message, data)

    def info(self, message: str, /, **data: Any) -> None:
        """Write a line of level info.

        .. versionadded:: 0.1.0
        """
        self._write("info", logging.INFO, message, data)

    def warning(self, message: str, /, **data: Any) -> None:
        """Write a line of level warning.

        .. versionadded:: 0.1.0
        """
        self._write("warning", logging.WARNING, message, data)

    def error(self, message: str, /, **data: Any) -> None:
        """Write a line of level error.

        .. versionadded:: 0.1.0
        """
        self._write("error", logging.ERROR, message, data)

    def _write(self, level: LogLevel, number: int, message: str, data: dict[str, Any]) -> None:
        active, services = self._active, self._services
        text = message if isinstance(message, str) else _safe_repr(message)
        logger = self._logger
        if logger is None:
            logger = self._logger = logging.getLogger(f"durably.job.{active.job_name}")
        if logger.isEnabledFor(number):
            # The caller of info() or its siblings is who wrote the line.
            logger.log(
                number, "%s%s", text, _Shown(data), extra={"run_id": active.id}, stacklevel=3
            )
        emitter = services.emitter
        if emitter.wants(LogWritten):
            emitter.emit(
                LogWritten,
                **active.fields,
                level=level,
                message=text,
                data=data,
                step_name=current_step.get(),
            )


class _Shown:
    """The data of a log line as text, made only when the line is written out."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __str__(self) -> str:
        return "".join(f" {key}={_safe_repr(value)}" for key, value in self._data.items())


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<unprintable {type(value).__qualname__}>"


def checked_progress(
    current: object, total: object, message: object
) -> tuple[float, float | None, str | None]:
    """The arguments of ``step.progress`` as plain values; raises ``ValidationError``."""
    return (
        _number(current, "current"),
        None if total is None else _number(total, "total"),
        None if message is None else _message(message),
    )


def _number(value: object, what: str) -> float:
    if type(value) in NUMBERS:
        return value  # type: ignore[return-value]  # exactly int or float
    if not isinstance(value, bool) and hasattr(value, "__float__"):
        # Not every value of such a type is one: a signalling NaN of Decimal, a huge Fraction.
        with suppress(ArithmeticError, ValueError):
            # A NumPy int has an index; a Decimal, a Fraction and a NumPy float have none.
            return int(value) if hasattr(value, "__index__") else float(value)
    raise ValidationError(f"step.progress: {what} must be a number, not {type_name(value)}")


def _message(value: object) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"step.progress: message must be a str, not {type_name(value)}")
    return str(value)


def stored_line(event: LogWritten, owner: int) -> logs.LogLine:
    """*event* as it is stored; what JSON cannot hold is kept as its ``repr``."""
    try:
        data = _dumped(event.data)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything, and data may be circular
        data = json.dumps({key: _dumpable(value) for key, value in event.data.items()})
    return logs.LogLine(
        run_id=event.run_id,
        owner=owner,
        level=event.level,
        message=json.dumps(event.message),
        data=data,
        step_name=event.step_name,
        created_at_us=from_datetime(event.timestamp),
    )


def _dumped(data: object) -> str:
    return json.dumps(data, default=repr, skipkeys=True)


def _dumpable(value: object) -> object:
    try:
        return json.loads(_dumped(value))
    except Exception:  # noqa: BLE001 - as above: this value is the one
        return f"<{type(value).__qualname__}>"
