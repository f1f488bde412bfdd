"""Runs and their parts, as plain values, and lists of them.

The records of steps, items, attempts and log lines, plans and questions are in modules of their
own, which a program imports that reads them.
"""

from durably.models.asking import Progress, RunEngine, answered_by, engine_of
from durably.models.failures import ErrorInfo, error_info, printable, stored_error, traceback_of
from durably.models.runs import (
    TERMINAL,
    Disposition,
    Run,
    RunKind,
    RunList,
    RunStatus,
    WaitingFor,
    WaitKind,
    duration_of,
    evolved,
    short_name,
)

__all__ = [
    "TERMINAL",
    "Disposition",
    "ErrorInfo",
    "Progress",
    "Run",
    "RunEngine",
    "RunKind",
    "RunList",
    "RunStatus",
    "WaitKind",
    "WaitingFor",
    "answered_by",
    "duration_of",
    "engine_of",
    "error_info",
    "evolved",
    "printable",
    "short_name",
    "stored_error",
    "traceback_of",
]
