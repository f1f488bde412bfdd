"""How an execution leaves its job."""

from __future__ import annotations

from typing import Any

import attrs

from durably.models import ErrorInfo


@attrs.frozen
class Completed:
    """The job has returned; *output* is JSON text, *value* what is read from it."""

    output: str
    value: Any = None


@attrs.frozen
class Failed:
    """The job has raised, because of the step of that name, if any."""

    error: ErrorInfo
    step: str | None = None


@attrs.frozen
class Interrupted:
    """The job was stopped and has not come to an end: the run is pending again."""


@attrs.frozen
class Lost:
    """The run was cancelled or taken over meanwhile: only its owner is removed."""


Outcome = Completed | Failed | Interrupted | Lost
