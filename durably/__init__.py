"""durably: resumable jobs for scripts, notebooks and cron, kept in one SQLite file.

A job is a plain function made of named steps; ``step.run(name, fn, ...)`` stores each step's
result. Kill the process at any instant and start it again: it continues with the first step that
has no checkpoint.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from durably import codecs as codecs  # found as durably.codecs
    from durably import events as events  # found as durably.events
    from durably import plugins as plugins  # found as durably.plugins
    from durably import testing as testing  # found as durably.testing
    from durably._platform.hashes import fingerprint_of
    from durably.client.arguments import Trigger
    from durably.client.handles import JobHandle
    from durably.codec import NOTHING
    from durably.entry.engine import Durably
    from durably.entry.oneline import imap, map, run  # noqa: A004 - the contract's name
    from durably.entry.sessions import Session, session
    from durably.errors import (
        BackupExistsError,
        CodeChangedWarning,
        ConflictError,
        DatabaseError,
        DatabaseLostError,
        DuplicateStepError,
        DuplicateStepWarning,
        DurablyError,
        DurablyWarning,
        EngineClosedError,
        ExecutorBrokenError,
        ForkedError,
        ItemsChangedWarning,
        ItemsFailedError,
        NotFoundError,
        NoWorkerError,
        OwnershipLost,
        PayloadChangedWarning,
        RetryAfter,
        RunCancelled,
        RunCancelledError,
        RunFailedError,
        RunInterrupted,
        RunsFailedError,
        RunSuspended,
        SchemaError,
        SerializationError,
        StepTimeoutError,
        StopRun,
        ValidationError,
        WaitTimeoutError,
        WorkerDiedError,
    )
    from durably.events import Event
    from durably.execution.context import StepContext
    from durably.execution.loops.results import MapResult
    from durably.execution.pacing import RateLimit
    from durably.execution.step_questions import Ticket
    from durably.jobs import Job, job
    from durably.models import ErrorInfo, Progress, Run, RunStatus, WaitingFor
    from durably.models.plans import Plan, PlannedStep
    from durably.models.questions import Question
    from durably.models.records import Attempt, ItemCounts, ItemRecord, LogEntry, StepRecord
    from durably.settings.retries import Retry

__version__ = "0.1.0"

__all__ = [
    "NOTHING",
    "Attempt",
    "BackupExistsError",
    "CodeChangedWarning",
    "ConflictError",
    "DatabaseError",
    "DatabaseLostError",
    "DuplicateStepError",
    "DuplicateStepWarning",
    "Durably",
    "DurablyError",
    "DurablyWarning",
    "EngineClosedError",
    "ErrorInfo",
    "Event",
    "ExecutorBrokenError",
    "ForkedError",
    "ItemCounts",
    "ItemRecord",
    "ItemsChangedWarning",
    "ItemsFailedError",
    "Job",
    "JobHandle",
    "LogEntry",
    "MapResult",
    "NoWorkerError",
    "NotFoundError",
    "OwnershipLost",
    "PayloadChangedWarning",
    "Plan",
    "PlannedStep",
    "Progress",
    "Question",
    "RateLimit",
    "Retry",
    "RetryAfter",
    "Run",
    "RunCancelled",
    "RunCancelledError",
    "RunFailedError",
    "RunInterrupted",
    "RunStatus",
    "RunSuspended",
    "RunsFailedError",
    "SchemaError",
    "SerializationError",
    "Session",
    "StepContext",
    "StepRecord",
    "StepTimeoutError",
    "StopRun",
    "Ticket",
    "Trigger",
    "ValidationError",
    "WaitTimeoutError",
    "WaitingFor",
    "WorkerDiedError",
    "fingerprint_of",
    "imap",
    "job",
    "map",
    "run",
    "session",
]

# Each is imported when it is first used: a module that defines jobs needs few of them, and so does
# a child of a map that imports it. What is not here is an error or a warning.
_NAMES_OF_MODULES: typing.Final = {
    "_platform.hashes": ["fingerprint_of"],
    "client.arguments": ["Trigger"],
    "client.handles": ["JobHandle"],
    "codec": ["NOTHING"],
    "entry.engine": ["Durably"],
    "entry.oneline": ["imap", "map", "run"],
    "entry.sessions": ["Session", "session"],
    "events": ["Event"],
    "execution.context": ["StepContext"],
    "execution.loops.results": ["MapResult"],
    "execution.pacing": ["RateLimit"],
    "settings.retries": ["Retry"],
    "execution.step_questions": ["Ticket"],
    "jobs": ["Job", "job"],
    "models": ["ErrorInfo", "Progress", "Run", "RunStatus", "WaitingFor"],
    "models.plans": ["Plan", "PlannedStep"],
    "models.questions": ["Question"],
    "models.records": ["Attempt", "ItemCounts", "ItemRecord", "LogEntry", "StepRecord"],
}
_MODULE_OF_NAME: typing.Final = {
    name: module for module, names in _NAMES_OF_MODULES.items() for name in names
}
_SUBMODULES: typing.Final = frozenset({"codecs", "events", "plugins", "testing"})

if not typing.TYPE_CHECKING:  # a name that is not imported above is none to a type checker

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULE_OF_NAME.get(name, 'errors')}")
        found = globals()[name] = getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
