"""The child runs of the step context: ``step.trigger``, ``step.call`` and ``step.wait_for``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from durably._platform.ids import child_id
from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job
from durably.errors import ConflictError, NotFoundError, ValidationError
from durably.execution.step_questions import StepQuestions, Ticket
from durably.jobs import Job
from durably.models import TERMINAL, Run
from durably.store.outcome import Suspended
from durably.store.rows import RunRow

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class StepChildren(StepQuestions):
    """The part of the step context that triggers runs and waits for them, and for answers."""

    @overload
    def trigger(
        self, name: str, job: Job[P, R], payload: Any = ..., **options: Any
    ) -> Run[P, R]: ...
    @overload
    def trigger(self, name: str, job: str, payload: Any = ..., **options: Any) -> Run[Any, Any]: ...
    @entered_in_job
    def trigger(
        self, name: str, job: Job[Any, Any] | str, payload: Any = ..., **options: Any
    ) -> Run[Any, Any]:
        """Trigger a run once for this run, whatever happens in between, and return it.

        It is a child of this run: it is cancelled together with it, and stays if it is deleted.

        Args:
            name: unique within the run, as the name of any step.
            job: a job, or the name of a registered one.
            payload: as for ``app.trigger``, and so are the options.

        Raises:
            NotFoundError: no job of that name is registered, or the run was deleted.
            ValidationError: the payload or an option is not acceptable.
            DuplicateStepError: a step of that name has already completed in this execution.
            StopRun: the run is to stop.

        .. versionadded:: 0.2.0
        """
        arguments = (name, job, payload, options)
        run_id = self._triggered(name, arguments)
        return self._services.family.runs().read(run_id)

    def _trigger(self, name: str, job: Any, payload: Any, options: dict[str, Any]) -> str:
        run = self._run
        given = child_id(run.id, name), job, payload, options
        run_id = self._services.family.runs().trigger(run.run_pk, run.fence, *given)
        if run_id is None:
            self._step_runner.recorder.lose()
            run.check()
            raise AssertionError("check raises, as the run is to stop")
        return run_id

    @overload
    def call(self, name: str, job: Job[Any, R], payload: Any = ..., **options: Any) -> R: ...
    @overload
    def call(self, name: str, job: str, payload: Any = ..., **options: Any) -> Any: ...
    @entered_in_job
    def call(self, name: str, job: Job[Any, Any] | str, payload: Any = ..., **options: Any) -> Any:
        """Trigger a run as ``trigger`` does, wait for it, and return its output.

        Raises: as ``trigger`` and ``wait_for``.

        .. versionadded:: 0.2.0
        """
        arguments = (name, job, payload, options)
        return self._output_of(self._triggered(name, arguments))

    def _triggered(self, name: str, arguments: tuple[Any, ...]) -> str:
        run_id: str = self._step_runner.take(
            name, self._trigger, arguments, {}, str, on_change="ignore"
        )
        return run_id

    @overload
    def wait_for(self, what: Ticket[T]) -> T: ...
    @overload
    def wait_for(self, what: Run[Any, R]) -> R: ...
    @overload
    def wait_for(self, what: Iterable[Run[Any, R]]) -> list[R]: ...
    @entered_in_job
    def wait_for(self, what: Any) -> Any:
        """Wait for the answer of a ticket, or the end of runs; return the answer or the output.

        The run leaves its thread meanwhile, as in ``sleep_until``. So no number of runs that wait
        can block those that they wait for.

        Args:
            what: what ``prepare`` has returned, a run, or several, whose outputs are returned in
                their order.

        Raises:
            RunFailedError: a run that is waited for has failed; of several the first one that has,
                in their order, after all have ended.
            RunCancelledError: it was cancelled; this one is not.
            NotFoundError: it was deleted, or the ticket is not one of this run.
            StepTimeoutError: the time of the ticket is over, and it has no default.
            ConflictError: it is this run itself.
            ValidationError: it is none of these.
            StopRun: the run waits, or is to stop.

        .. versionadded:: 0.2.0
        """
        self._run.check()
        if isinstance(what, Ticket):
            return self._answer_to(what)
        if isinstance(what, Run):
            return self._output_of(what.id)
        runs = list(what) if isinstance(what, Iterable) and not isinstance(what, str) else [what]
        for each in runs:
            if not isinstance(each, Run):
                raise ValidationError(
                    "step.wait_for needs a run, several, or what step.prepare has returned, not "
                    f"{short_repr(each)}"
                )
        for each in runs:
            self._await_end(each.id)
        ended = self._services.family.runs().ended
        return [ended(each.id).output for each in runs]

    def _output_of(self, run_id: str) -> Any:
        self._await_end(run_id)
        return self._services.family.runs().ended(run_id).output

    def _await_end(self, run_id: str) -> None:
        if run_id == self._run.id:
            raise ConflictError(f"run {run_id} cannot wait for its own end")

        def has_ended() -> bool:
            return self._row_of(run_id).status in TERMINAL

        row = self._row_of(run_id)
        self._waiting.for_change(Suspended("run", run_pk=row.run), has_ended)

    def _row_of(self, run_id: str) -> RunRow:
        row = self._step_runner.recorder.read(self._services.checkpoints.find_run, run_id)
        if row is None:
            raise NotFoundError(f"there is no run {run_id!r:.80} in this database (any more)")
        return row
