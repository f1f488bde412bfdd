"""What the parts of the step context have in common."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from durably._platform.fork_hooks import no_fork
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.step_runner import StepRunner

if TYPE_CHECKING:
    from durably.execution.waiting import Waiting


class StepPart:
    """A part of the step context. A base class of it alone."""

    _run: CurrentRun
    _services: Services
    _step_runner: StepRunner

    @functools.cached_property
    def _waiting(self) -> Waiting:
        with no_fork():  # for the child, as before a claim
            from durably.execution.waiting import Waiting  # noqa: PLC0415 - where first needed

        return Waiting(self._run, self._services, self._step_runner)
