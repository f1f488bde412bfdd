"""Execute several steps at once."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any

from durably._platform.latch import join
from durably._platform.safe_repr import type_name
from durably.errors import StopRun, ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.step_checks import LONGEST_STEP_NAME
from durably.execution.step_runner import StepRunner
from durably.jobs.names import check_name
from durably.models import error_info


class Parallel:
    """Several steps of a run, each on a thread. Used once.

    Args:
        functions: the functions of the steps, by name.
        max_workers: how many may be executed at once.

    Raises:
        ValidationError: one of these is not what it must be.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[], Any]],
        max_workers: int | None,
        run: CurrentRun,
        services: Services,
        step_runner: StepRunner,
    ) -> None:
        if not isinstance(functions, Mapping):
            raise ValidationError(
                "step.parallel needs a dict of functions by the names of their steps, such as "
                f'{{"users": fetch_users}}, not {type_name(functions)}'
            )
        for name, function in functions.items():
            check_name(name, "a step's name", longest=LONGEST_STEP_NAME)
            if not callable(function):
                raise ValidationError(
                    f"step.parallel: {name!r} needs a function, not {type_name(function)}"
                )
        is_count = isinstance(max_workers, int) and not isinstance(max_workers, bool)
        if max_workers is not None and (not is_count or max_workers < 1):
            raise ValidationError("step.parallel: max_workers must be an int of at least 1")
        self._functions = dict(functions)
        self._most = len(functions) if max_workers is None else max_workers
        self._run = run
        self._services = services
        self._step_runner = step_runner
        self._lock = threading.Lock()  # guards the one below
        self._left = iter(self._functions.items())
        # Of the results before this, and of all that were used in it.
        self._base: int | None = None
        self._newest = 0
        self._results: dict[str, Any] = {}
        self._failures: dict[str, BaseException] = {}
        self._is_ending = False

    def results(self) -> dict[str, Any]:
        """Execute the steps; return the results of all, in the order given.

        Raises:
            StopRun: the run is to stop.
            BaseException: what the first step of those that failed, in the order given, has raised.
        """
        self._run.check()
        layers = self._step_runner.layers
        if layers is not None:
            self._base = self._newest = layers.newest()
        threads: list[threading.Thread] = []
        try:
            for number in range(min(self._most, len(self._functions))):
                context = contextvars.copy_context()

                def work(context: contextvars.Context = context) -> None:
                    context.run(self._work)

                threads.append(self._services.start_thread(f"parallel-{number + 1}", work))
            join(*threads)
        except BaseException as exc:
            self._is_ending = True
            self._run.keep_callers_signal(exc)
            join(*threads)
            raise
        layers = self._step_runner.layers
        if layers is not None:
            layers.use(self._newest)
        failed = [name for name in self._functions if name in self._failures]
        if failed:
            self._raise(failed)
        return {name: self._results[name] for name in self._functions}

    def _work(self) -> None:
        while not self._is_ending:
            with self._lock:
                name, function = next(self._left, (None, None))
            if name is None or function is None:
                return
            try:
                self._results[name] = self._take(name, function)
            except BaseException as exc:  # noqa: BLE001 - raised again in the calling thread
                self._failures[name] = exc
                if isinstance(exc, StopRun):
                    return

    def _take(self, name: str, function: Callable[[], Any]) -> Any:
        """Execute a step, or return its stored result; none of the others comes before it."""
        layers = self._step_runner.layers
        if layers is None:
            return self._step_runner.take(name, function, (), {})
        base = layers.newest() if self._base is None else self._base
        with layers.branch(base):
            try:
                return self._step_runner.take(name, function, (), {})
            finally:
                newest = layers.newest()
                with self._lock:
                    self._newest = max(self._newest, newest)

    def _raise(self, failed: list[str]) -> None:
        self._run.check()
        first = self._failures[failed[0]]
        for name in failed[1:]:
            first.add_note(f"step {name!r} has failed as well: {error_info(self._failures[name])}")
        raise first
