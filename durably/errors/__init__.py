"""Every exception that durably raises on purpose.

::

    DurablyError(Exception)
    ├── ValidationError(…, ValueError)      bad spec, option, payload, label, key
    ├── SerializationError(…, TypeError)    a value that has no faithful stored form
    ├── NotFoundError(…, LookupError)
    ├── ConflictError                       not possible in the run's present state
    ├── RunFailedError / RunCancelledError  from wait; carry .run
    ├── RunsFailedError(…, ExceptionGroup)  runs that have failed unseen; carries .runs
    ├── WaitTimeoutError(…, TimeoutError)
    ├── NoWorkerError
    ├── DuplicateStepError                  a step name used twice in one execution
    ├── StepTimeoutError(…, TimeoutError)   a deadline has passed
    ├── ItemsFailedError(…, ExceptionGroup) items of a map have failed
    ├── SchemaError                         not ours, newer than this library, or changed
    ├── DatabaseError                       locked for too long, full, unreadable, corrupt
    │   └── DatabaseLostError               moved, deleted, replaced or overwritten while open
    ├── BackupExistsError(…, FileExistsError)
    ├── EngineClosedError
    └── ForkedError
    StopRun(BaseException)                  control flow inside a job
    ├── RunCancelled · RunInterrupted · RunSuspended · OwnershipLost
    DurablyWarning(UserWarning)
    └── DuplicateStepWarning · PayloadChangedWarning · CodeChangedWarning · ItemsChangedWarning
    RetryAfter(Exception)                   raised by users: not a failure
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any

from durably.errors.base import DurablyError as DurablyError
from durably.errors.failures import ItemsFailedError as ItemsFailedError
from durably.errors.failures import RunFailedError as RunFailedError
from durably.errors.failures import RunsFailedError as RunsFailedError

if TYPE_CHECKING:
    from durably.models import Run


class ValidationError(DurablyError, ValueError):
    """An argument is not acceptable; nothing was stored.

    Raised for a bad job spec, engine option, payload, label, key or name. The
    message names the place (``$.rows[3].email`` inside a payload) and says what
    was expected there.

    .. versionadded:: 0.1.0
    """


class SerializationError(DurablyError, TypeError):
    """A value has no stored form from which it could be read back unchanged.

    The message says which value it is and what to annotate so that it has one.

    .. versionadded:: 0.1.0
    """


class NotFoundError(DurablyError, LookupError):
    """There is no run with that id, or no registered job with that name.

    .. versionadded:: 0.1.0
    """


class ConflictError(DurablyError):
    """The call is not possible in the present state of the run, the job or the engine.

    .. versionadded:: 0.1.0
    """


class RunCancelledError(DurablyError):
    """The run that was waited for was cancelled.

    Attributes:
        run: the cancelled run.

    .. versionadded:: 0.1.0
    """

    def __init__(self, run: Run[Any, Any]) -> None:
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        return (
            f"run {self.run.id} of job {self.run.job_name!r} was cancelled. "
            f"Its checkpoints are kept: retry({self.run.id!r}) continues from them."
        )


class WaitTimeoutError(DurablyError, TimeoutError):
    """The timeout has expired; what was waited for continues.

    .. versionadded:: 0.1.0
    """


class NoWorkerError(DurablyError):
    """No started engine could execute the run that is waited for.

    The run stays stored and pending.

    .. versionadded:: 0.1.0
    """


class DuplicateStepError(DurablyError):
    """A step name whose step has completed was used again in the same execution of a run.

    Raised at the second use, before its function is called. Returning the first result silently
    would be wrong if the two uses do different work. Put what distinguishes the steps into the
    name, such as ``f"batch-{i}"``; or set ``on_duplicate_step="reuse"``, which returns the first
    one's result.

    .. versionadded:: 0.2.0
    """


class StepTimeoutError(DurablyError, TimeoutError):
    """The deadline of a run, of a step or of an item of a map has passed.

    .. versionadded:: 0.2.0
    """


class WorkerDiedError(DurablyError):
    """The process that executed an item of a map has ended: a signal, or the system's memory.

    Attributes:
        exitcode: of the process; the number of the signal, negative; ``None`` if unknown.

    .. versionadded:: 0.2.0
    """

    def __init__(self, message: str, exitcode: int | None = None) -> None:
        super().__init__(message, exitcode)
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class ExecutorBrokenError(DurablyError):
    """The executor that was passed to a map cannot execute anything any more.

    The items that it had begun count as missing, not as failed: the next start executes them.

    .. versionadded:: 0.2.0
    """


class SchemaError(DurablyError):
    """The file is not a durably database, or a newer durably wrote it, or its schema was changed.

    The file is left as it was.

    .. versionadded:: 0.1.0
    """


class DatabaseError(DurablyError):
    """The database cannot be used now: it is locked for too long, full, unreadable or corrupt.

    What was committed before stays. The cause is in ``__cause__``.

    Attributes:
        is_transient: whether the same call may succeed later without a repair of the
            file (the lock is released, there is room again).
        is_of_row: whether only one run, step or log line cannot be read.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self, message: str, *, is_transient: bool = False, is_of_row: bool = False
    ) -> None:
        super().__init__(message)
        self.is_transient = is_transient
        self.is_of_row = is_of_row


class DatabaseLostError(DatabaseError):
    """The database file was moved, deleted, replaced or overwritten while it was open.

    .. versionadded:: 0.1.0
    """


class BackupExistsError(DurablyError, FileExistsError):
    """There is a file already where a backup is to be made; it was left as it was.

    .. versionadded:: 0.2.0
    """


class EngineClosedError(DurablyError):
    """The engine was closed, or replaced by one that was opened later; use a new one.

    .. versionadded:: 0.1.0
    """


class ForkedError(DurablyError):
    """The engine belongs to the parent process; open a new one in the child.

    .. versionadded:: 0.1.0
    """


class StopRun(BaseException):
    """Control flow that ends the execution of a run at a step boundary.

    It is a ``BaseException``, so that ``except Exception`` in a job does not swallow it.
    It is never raised to callers of the engine.

    .. versionadded:: 0.1.0
    """


class RunCancelled(StopRun):
    """The run was cancelled.

    .. versionadded:: 0.1.0
    """


class RunInterrupted(StopRun):
    """The engine is stopping; the run goes back to pending.

    .. versionadded:: 0.1.0
    """


class RunSuspended(StopRun):
    """The run waits, and leaves its thread until it can go on.

    The job is then executed from the top, with its checkpoints.

    .. versionadded:: 0.2.0
    """


class OwnershipLost(StopRun):
    """Another owner has recovered the run, nobody owns it any more, or its time was over before.

    .. versionadded:: 0.1.0
    """


class DurablyWarning(UserWarning):
    """The base of durably's own warning classes.

    .. versionadded:: 0.2.0
    """


class DuplicateStepWarning(DurablyWarning):
    """A step name was used twice in one execution of a run, and ``on_duplicate_step="reuse"``.

    The second use returns the result of the first one.

    .. versionadded:: 0.1.0
    """


class PayloadChangedWarning(DurablyWarning):
    """A run that has the key was started with another payload.

    The message names the paths that differ, such as ``$.pages``, and never a value.

    .. versionadded:: 0.2.0
    """


class CodeChangedWarning(DurablyWarning):
    """A stored result is used that an earlier version of a step's function has made.

    It is raised once for each function in an execution. ``docs/guide.md`` says what is a change.

    .. versionadded:: 0.2.0
    """


class ItemsChangedWarning(DurablyWarning):
    """Other items than before are at positions of a map that have results.

    Their results are used. Pass ``key=`` to tell the items apart by what they are.

    .. versionadded:: 0.2.0
    """


class RetryAfter(Exception):
    """Raise this in an item's or a step's function, or in a job, to have it called again later.

    Raise it where a service says that its quota is used up, for example. It counts neither as a
    failure nor as an attempt. No item of the same map begins before then. If a step asks for five
    seconds or more, it is raised to the job; a run that does not catch it goes on later, and has no
    thread meanwhile.

    Args:
        when: seconds, a ``timedelta``, or an aware ``datetime``.
        message: for people.

    Raises:
        ValidationError: *when* is none of these.

    .. versionadded:: 0.2.0
    """

    def __init__(self, when: float | timedelta | datetime, message: str = "") -> None:
        super().__init__(when, message)
        is_number = isinstance(when, int | float) and not isinstance(when, bool)
        is_instant = isinstance(when, datetime) and when.tzinfo is not None
        if not (is_instant or is_number or isinstance(when, timedelta)):
            raise ValidationError(
                "RetryAfter needs seconds, a timedelta or a datetime with a time zone, "
                f"not {type(when).__qualname__}"
            )
        if isinstance(when, float) and not isfinite(when):
            raise ValidationError(f"RetryAfter needs a finite number of seconds, not {when}")
        self.when = when
        self.message = message

    def __str__(self) -> str:
        return self.message or f"to be called again after {self.when}"


def _name_as_imported(cls: type[BaseException]) -> None:
    """Make tracebacks and stored errors name a class, and those below it, as programs import it."""
    cls.__module__ = "durably"
    for each in cls.__subclasses__():
        _name_as_imported(each)


for _root in (DurablyError, StopRun, DurablyWarning, RetryAfter):
    _name_as_imported(_root)
del _root
