"""The waits of the step context: ``step.sleep_until`` and ``step.poll``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, overload

from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job, let_through
from durably.codec import UNTYPED, return_type_of
from durably.errors import ValidationError
from durably.execution.step_part import StepPart
from durably.settings import Duration, optional_timeout, waitable
from durably.store.rows import NewWait

T = TypeVar("T")
U = TypeVar("U")

Every = Duration | Callable[[int], Duration]


class StepWaits(StepPart):
    """The part of the step context that waits. A base class of it alone."""

    @entered_in_job
    def sleep_until(self, name: str, when: Duration | datetime) -> None:
        """Wait until an instant, in a step that is stored under *name*.

        The first call fixes the instant, by the wall clock: a resume waits for what is left, and
        not at all if the step has completed. If five seconds or more are left, the run leaves its
        thread and its slot, and is ``waiting`` until then. It gives its concurrency key up
        meanwhile. In front of younger runs, the job is then executed from the top, with its
        checkpoints. In a session, in ``app.run`` and in a thread of the job the wait blocks.

        Args:
            name: unique within the run, as the name of any step.
            when: seconds or a ``timedelta`` from now on, or an aware ``datetime``.

        Raises:
            ValidationError: *when* is none of these, or the name is not usable.
            DuplicateStepError: a step of that name has already completed in this execution.
            StopRun: the run waits, or is to stop. ``RunSuspended`` says the former.

        .. versionadded:: 0.2.0
        """
        until_us = self._waiting.instant_us(when, "step.sleep_until")
        self._step_runner.take(name, self._sleep_until, (name, until_us), {}, on_change="ignore")

    def _sleep_until(self, name: str, until_us: int) -> None:
        wait = self._waiting.opened(NewWait(name, "time", until_us))
        assert wait.until_us is not None  # noqa: S101 - stored with it
        self._waiting.until(name, wait.until_us)

    @overload
    def poll(
        self,
        name: str,
        check: Callable[[], T | None],
        *,
        every: Every,
        timeout: Duration | None = None,
        returns: None = None,
    ) -> T: ...
    @overload
    def poll(
        self,
        name: str,
        check: Callable[[], object],
        *,
        every: Every,
        timeout: Duration | None = None,
        returns: type[U],
    ) -> U: ...
    @overload
    def poll(
        self,
        name: str,
        check: Callable[[], object],
        *,
        every: Every,
        timeout: Duration | None = None,
        returns: Any,
    ) -> Any: ...
    @entered_in_job
    def poll(
        self,
        name: str,
        check: Callable[[], Any],
        *,
        every: Every,
        timeout: Duration | None = None,
        returns: Any = None,
    ) -> Any:
        """Call *check* until it returns something other than ``None``, which is the step's result.

        It is called at once, and then after each *every*. Between two calls the run waits as in
        ``sleep_until``: it leaves its thread if that takes five seconds or more. How often it has
        been called, and when it is called again, is stored: a resume goes on from there.

        Args:
            name: unique within the run, as the name of any step.
            check: called without arguments; what it raises fails the step.
            every: seconds or a ``timedelta``, or a function that is passed the number of calls so
                far, 1 after the first one, and returns either.
            timeout: seconds or a ``timedelta`` from the first call on, also across resumes.
            returns: the type of the result, if *check* is not annotated, or wrongly.

        Raises:
            StepTimeoutError: the timeout is over. A retry of the run begins the poll anew.
            ValidationError: an argument is not acceptable.
            DuplicateStepError: a step of that name has already completed in this execution.
            StopRun: the run waits, or is to stop.
            Exception: whatever *check* raised; the step is recorded as failed.

        .. versionadded:: 0.2.0
        """
        if not callable(check):
            raise ValidationError(f"step.poll needs a function to call, not {short_repr(check)}")
        if not callable(every):
            every = waitable(every, "every")
        timeout_s = optional_timeout(timeout)
        type_ = returns
        if type_ is None:
            type_ = _without_none(return_type_of(check))
        else:
            self._services.codec.check_type(returns, "step.poll(returns=...)")
        arguments = (name, check, every, timeout_s)
        return self._step_runner.take(name, self._poll, arguments, {}, type_, on_change="ignore")

    def _poll(
        self, name: str, check: Callable[[], Any], every: Every, timeout_s: float | None
    ) -> Any:
        waiting = self._waiting
        until_us = waiting.deadline_us(timeout_s)
        wait = waiting.opened(NewWait(name, "poll", until_us))
        tries, next_us, until_us = wait.tries, wait.next_us, wait.until_us
        while True:
            if next_us is not None:
                ends_us = next_us if until_us is None else min(next_us, until_us)
                waiting.until(name, ends_us)
                if until_us is not None and next_us >= until_us:
                    raise waiting.timed_out(name, waiting.closed(name))
            found = let_through(check)
            if found is not None:
                return found
            tries += 1
            pause_s = waitable(every(tries), "every") if callable(every) else every
            next_us = self._waiting.instant_us(pause_s, "every")
            waiting.note_check(name, tries, next_us)


def _without_none(type_: Any) -> Any:
    """Return the type of what is not ``None``, where a function may also return that."""
    if type_ is UNTYPED:
        return type_
    parts = [part for part in get_args(type_) if part is not NoneType]
    if get_origin(type_) not in (Union, UnionType) or len(parts) == len(get_args(type_)):
        return type_
    return parts[0] if len(parts) == 1 else Union[tuple(parts)]  # noqa: UP007 - of a tuple
