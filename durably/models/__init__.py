"""Runs, steps, items, log lines and their parts, as plain values, and lists of them.

Plans and questions, which few programs use, are in modules of their own.
"""

from durably.models.asking import RunEngine, answered_by, engine_of
from durably.models.failures import ErrorInfo, error_info, printable, stored_error, traceback_of
from durably.models.records import (
    Attempt,
    AttemptList,
    AttemptOutcome,
    ItemCounts,
    ItemList,
    ItemRecord,
    ItemStatus,
    LogEntry,
    LogLevel,
    LogList,
    Progress,
    StepList,
    StepRecord,
    StepStatus,
)
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
    "Attempt",
    "AttemptList",
    "AttemptOutcome",
    "Disposition",
    "ErrorInfo",
    "ItemCounts",
    "ItemList",
    "ItemRecord",
    "ItemStatus",
    "LogEntry",
    "LogLevel",
    "LogList",
    "Progress",
    "Run",
    "RunEngine",
    "RunKind",
    "RunList",
    "RunStatus",
    "StepList",
    "StepRecord",
    "StepStatus",
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
