"""The log lines and the progress that a job reports while it runs, also in their stored form."""

from __future__ import annotations

import contextvars
import logging
import sys
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from durably._platform.nesting import is_too_deep
from durably._platform.safe_repr import safe_repr, safe_str, too_deep, type_name
from durably._platform.signals import raise_if_signal
from durably.errors import ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.models import printable, traceback_of

if TYPE_CHECKING:
    from durably.models.records import LogLevel

NUMBERS: Final = frozenset({int, float})

# The step that the current thread is inside.
current_step: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "durably_current_step", default=None
)

# The key of the item of a map that it is inside, and when that must have ended, by the clock's
# ``monotonic``.
current_item: contextvars.ContextVar[str | int | None] = contextvars.ContextVar(
    "durably_current_item", default=None
)
current_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar(
    "durably_current_deadline", default=None
)


# What logging.Logger takes beside the message and its arguments.
_OF_LOGGERS: Final = ("exc_info", "stack_info", "stacklevel", "extra")
# The attributes of a logging.LogRecord, which extra= cannot set.
_OF_RECORDS: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "run_id"})
# From the call of the logger to the line of the job: _write, and the method that called it.
_FRAMES: Final = 3


class StepLog:
    """Structured log lines of a run: ``step.log.info("read", rows=12)``.

    Each is emitted as a ``log:write`` event, passed to ``logging.getLogger("durably.job.<name>")``,
    and attributed to the step that the calling thread is in. Usable from any thread, also after
    the run has ended. Never raises for its arguments.

    The methods take what those of a ``logging.Logger`` take: arguments for the ``%`` formats of the
    message, ``exc_info``, ``stack_info``, ``stacklevel`` and ``extra``. Other keyword arguments are
    the line's data. The items of ``extra`` are data too, and so are, as text, the traceback that
    ``exc_info`` asks for and the stack that ``stack_info`` asks for, each under that name. Data
    that is nested more deeply than a payload may be is replaced by its type.

    .. versionadded:: 0.1.0
    """

    def __init__(self, run: CurrentRun, services: Services) -> None:
        self._run = run
        self._services = services
        self._logger: logging.Logger | None = None  # most runs write no line

    def debug(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level debug.

        .. versionadded:: 0.1.0
        """
        self._write("debug", logging.DEBUG, message, args, data)

    def info(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level info.

        .. versionadded:: 0.1.0
        """
        self._write("info", logging.INFO, message, args, data)

    def warning(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level warning.

        .. versionadded:: 0.1.0
        """
        self._write("warning", logging.WARNING, message, args, data)

    def warn(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level warning; deprecated, as in ``logging``: use ``warning``.

        .. versionadded:: 0.2.0
        """
        warnings.warn(
            "step.log.warn is deprecated; use step.log.warning", DeprecationWarning, stacklevel=2
        )
        self._write("warning", logging.WARNING, message, args, data)

    def error(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level error.

        .. versionadded:: 0.1.0
        """
        self._write("error", logging.ERROR, message, args, data)

    def exception(self, message: str, /, *args: object, exc_info: Any = True, **data: Any) -> None:
        """Write a line of level error with the traceback of the exception being handled.

        .. versionadded:: 0.2.0
        """
        self._write("error", logging.ERROR, message, args, {"exc_info": exc_info, **data})

    def critical(self, message: str, /, *args: object, **data: Any) -> None:
        """Write a line of level error, which is critical to the ``logging`` module.

        .. versionadded:: 0.2.0
        """
        self._write("error", logging.CRITICAL, message, args, data)

    def _write(
        self,
        level: LogLevel,
        number: int,
        message: object,
        args: tuple[object, ...],
        data: dict[str, Any],
    ) -> None:
        run, emitter = self._run, self._services.emitter
        logger = self._logger
        if logger is None:
            logger = self._logger = logging.getLogger(f"durably.job.{run.job_name}")
        is_logged = logger.isEnabledFor(number)
        is_wanted = emitter.wants("log:write")
        if not (is_logged or is_wanted):
            return
        text = _formatted(message, args)
        texts: dict[str, str] = {}
        settings: dict[str, Any] = {"extra": {"run_id": run.id}, "stacklevel": _FRAMES}
        if not data.keys().isdisjoint(_OF_LOGGERS):
            texts = _take_settings(data, settings)
        data = {key: _bounded(value) for key, value in data.items()}
        item_key = current_item.get()
        if item_key is not None:
            data.setdefault("item_key", item_key)
        if is_logged:
            logger.log(number, "%s%s", text, _Shown(data), **settings)
        if is_wanted:
            emitter.emit(
                "log:write",
                **run.fields,
                level=level,
                message=text,
                data=data | texts,
                step_name=current_step.get(),
            )


def _take_settings(data: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    """Remove the options of a logger from *data*; return those that are data as well."""
    texts = {}
    extra = data.get("extra")
    if isinstance(extra, dict):
        del data["extra"]
        items = {key: value for key, value in dict.items(extra) if isinstance(key, str)}
        known = {key: value for key, value in items.items() if key not in _OF_RECORDS}
        settings["extra"] = {**known, **settings["extra"]}
        data |= {key: value for key, value in items.items() if key not in data}
    exc = _exception_in(data.pop("exc_info", None))
    if exc is not None:
        texts["exc_info"] = traceback_of(exc)
        settings["exc_info"] = printable(exc)
    stacklevel = data.get("stacklevel")
    if type(stacklevel) is int:
        del data["stacklevel"]
        settings["stacklevel"] += max(stacklevel, 1) - 1
    if _is_true(data.pop("stack_info", None)):
        settings["stack_info"] = True
        # Without this function, _write, and the method of the log.
        frames = traceback.format_stack(sys._getframe(_FRAMES))  # noqa: SLF001 - as logging does
        texts["stack_info"] = "".join(["Stack (most recent call last):\n", *frames])
    return texts


def _exception_in(exc_info: object) -> BaseException | None:
    """Return the exception that ``exc_info`` stands for, as in ``logging``."""
    if isinstance(exc_info, tuple) and len(exc_info) == len(sys.exc_info()):
        exc_info = exc_info[1]
    elif not isinstance(exc_info, BaseException) and _is_true(exc_info):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _formatted(message: object, args: tuple[object, ...]) -> str:
    """Return the message of a line, formatted with its arguments as ``logging`` does."""
    text = safe_str(message)
    if not args:
        return text
    args = tuple(_bounded(each) for each in args)
    values: Any = args
    if len(args) == 1 and isinstance(args[0], Mapping) and _is_true(args[0]):
        values = args[0]
    try:
        formatted: str = text % values
    except Exception as raised:  # noqa: BLE001 - a format that does not fit, a __str__ that fails
        raise_if_signal(raised)
        return " ".join([text, *map(safe_repr, args)])
    return formatted


def _is_true(value: object) -> bool:
    try:
        return bool(value)
    except Exception as raised:  # noqa: BLE001 - an array of NumPy's, whatever a user's __bool__ raises
        raise_if_signal(raised)
        return False


def _bounded(value: object) -> object:
    return too_deep(value) if is_too_deep(value) else value


class _Shown:
    """The data of a log line as text, made only when the line is formatted."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __str__(self) -> str:
        return "".join(f" {key}={safe_repr(value)}" for key, value in self._data.items())


def checked_progress(
    current: object, total: object, message: object
) -> tuple[float, float | None, str | None]:
    """Return the arguments of ``step.progress`` as plain values; raise ``ValidationError``."""
    return (
        _number(current, "current"),
        None if total is None else _number(total, "total"),
        None if message is None else _message(message),
    )


def _number(value: object, what: str) -> float:
    if type(value) in NUMBERS:
        return value  # type: ignore[return-value]  # exactly int or float
    if not isinstance(value, bool | type) and hasattr(value, "__float__"):
        # Not every value of such a type is a number: a signalling NaN of Decimal, a huge Fraction.
        with suppress(ArithmeticError, ValueError):
            # A NumPy int has an index; a Decimal, a Fraction and a NumPy float have none.
            return int(value) if hasattr(value, "__index__") else float(value)
    raise ValidationError(f"step.progress: {what} must be a number, not {type_name(value)}")


def _message(value: object) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"step.progress: message must be a str, not {type_name(value)}")
    return str(value)
