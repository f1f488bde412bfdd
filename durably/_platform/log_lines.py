"""Pass lines to the handlers of a logger, whatever these do."""

from __future__ import annotations

import logging
from typing import Any

from durably._platform.signals import let_through, raise_if_signal


def pass_on(
    log: logging.Logger,
    level: int,
    text: str,
    *args: object,
    extra: dict[str, Any],
    traceback: str | None = None,
) -> None:
    """Pass a line to the handlers of the logger; what they raise harms no run.

    It is said to come from the caller of the function that calls this.

    Args:
        extra: attributes of the record.
        traceback: what formatters print below the line.
    """
    try:
        file, line, function, stack = log.findCaller(stacklevel=3)
        record = log.makeRecord(
            log.name, level, file, line, text, args, None, function, extra, stack
        )
        # Without the exception itself: a handler may keep records, and so all that is in its
        # frames; and other formatters would show durably's.
        record.exc_text = None if traceback is None else traceback.rstrip("\n")
        let_through(log.handle, record)
    except BaseException as raised:  # noqa: BLE001 - a user's handler or filter may raise anything
        raise_if_signal(raised)


def is_printed_by_python(log: logging.Logger, level: int) -> bool:
    """Return whether Python itself prints a line to the standard error output.

    It does so where logging is not configured, unless the program has silenced the logger.
    """
    last = logging.lastResort
    return (
        not log.hasHandlers()
        and not log.filters
        and log.isEnabledFor(level)
        and last is not None
        and last.level <= level
    )
