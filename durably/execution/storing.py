"""Store and read what belongs to a run, trying again while the reason of a failure may pass."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from durably._platform.safe_repr import on_one_line
from durably.errors import DatabaseError, EngineClosedError
from durably.models import error_info, short_name

if TYPE_CHECKING:
    from durably.execution.current_run import CurrentRun
    from durably.execution.emitter import Emitter
    from durably.execution.services import Services

logger = logging.getLogger("durably")

T = TypeVar("T")

# While the database cannot be written for a reason that may pass, a write is kept in memory and
# tried again after these pauses.
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0


def report_worker_error(
    emitter: Emitter, exc: BaseException, context: str, run_id: str | None = None
) -> None:
    """Log an error of durably's own threads and emit it as ``worker:error``."""
    of_run = "" if run_id is None else f" ({short_name(run_id, None, None)})"
    logger.warning("%s%s failed, and is tried again: %s", context, of_run, on_one_line(str(exc)))
    emitter.emit("worker:error", error=error_info(exc), context=context, run_id=run_id)


def encoded(
    services: Services,
    run: CurrentRun,
    context: str,
    value: Any,
    type_: Any,
    what: str,
    name: str | int | None = None,
) -> tuple[str, Any]:
    """Return the text of a result, whose large parts are in files, and what is read from it.

    Tries again while the disk has no room for a large part.

    Args:
        what: begins a message, followed by *name*, if there is one.

    Raises:
        StopRun, DatabaseError: as of ``retry_transient``.
        SerializationError: the value does not come back as it was under its type.
    """
    encode = services.codec.encode_and_decode
    try:
        return encode(value, type_, what=what, name=name, has_parts=True)
    except DatabaseError as exc:
        if not exc.is_transient:
            raise
        failed = exc
    again = functools.partial(encode, value, type_, what=what, name=name, has_parts=True)
    return retry_transient(services, run, context, again, failed=failed)


def retry_transient(
    services: Services,
    run: CurrentRun,
    context: str,
    access: Callable[..., T],
    *args: Any,
    failed: DatabaseError | EngineClosedError | None = None,
) -> T:
    """Store or read something of a run, trying again while the reason of a failure may pass.

    A full disk, or a database that another program keeps locked, must not lose the work of a step:
    its result waits in memory until it can be stored or the engine stops. And a checkpoint that
    cannot be read now must not fail the run, since its job has done nothing wrong.

    Args:
        failed: the error of the first try, if the caller has made it.

    Raises:
        StopRun: the run is to stop or is over, so this cannot wait any longer.
        DatabaseError: the reason will not pass by itself.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        if failed is None:
            try:
                return access(*args)
            except (DatabaseError, EngineClosedError) as exc:
                failed = exc
        if isinstance(failed, EngineClosedError):
            run.check()  # it is over: this thread has outlived it
            raise failed
        report_worker_error(services.emitter, failed, context, run.id)
        if not failed.is_transient:
            raise failed
        failed = None
        if services.clock.wait(run.stopped, pause_s):
            run.check()
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
