"""Check what a step is called with, and how large its result is."""

from __future__ import annotations

import os
import warnings
from typing import Final

from durably._platform.safe_repr import type_name
from durably._platform.tracebacks import stacklevel
from durably.errors import ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.jobs.names import check_name

LONGEST_STEP_NAME: Final = 500
# A larger result is stored with a warning: it slows down every commit around it.
LARGE_RESULT: Final = 16 * 1024 * 1024


def check_call(run: CurrentRun, name: str, fn: object) -> None:
    """Raise if a step that may have to be executed cannot be."""
    if os.getpid() != run.pid:  # after a fork of which no hook was called
        run.check()
    if callable(name) and not isinstance(name, str):
        raise ValidationError(needs_name(name))
    check_name(name, "a step's name", longest=LONGEST_STEP_NAME)
    if not callable(fn):
        raise ValidationError(_needs_function(name, fn))


def warn_of_size(services: Services, name: str, text: str) -> None:
    """Warn of a large result that is in the database itself."""
    if services.checkpoints.has_files:
        return
    # Only now: where warnings are errors, this must not lose the checkpoint.
    warnings.warn(
        f"the result of step {name!r} takes {len(text) / 2**20:.0f} MiB in the database; "
        "leave out blobs=False, so that it becomes a file",
        stacklevel=stacklevel(),  # the job's line
    )


def _needs_function(name: str, value: object) -> str:
    # The value itself is not shown, because a result may be a secret.
    kind = type_name(value)
    article = "" if value is None else "an " if kind[:1].lower() in "aeiou" else "a "
    return (
        f"step.run({name!r}, ...) needs a function, not {article}{kind}: write "
        f"step.run({name!r}, fetch, 1), not step.run({name!r}, fetch(1))"
    )


def needs_name(function: object, call: str = "step.run") -> str:
    """Return the message that a function was passed in the place of the name."""
    called = getattr(function, "__name__", "fetch")
    return (
        f"{call} needs the name of the step before its function: write "
        f"{call}({called!r}, {called}, ...), not {call}({called}, ...)"
    )
