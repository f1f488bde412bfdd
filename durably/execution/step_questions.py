"""The questions of the step context: ``step.ask`` and ``step.prepare``."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import attrs

from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job
from durably._platform.values import Value
from durably.codec import UNTYPED
from durably.errors import ConflictError, SerializationError, ValidationError
from durably.execution.step_part import StepPart
from durably.models import short_name
from durably.settings import Duration
from durably.store.outcome import Suspended
from durably.store.rows import NewWait

if TYPE_CHECKING:
    from durably.store.read_rows import Wait

logger = logging.getLogger("durably")

T = TypeVar("T")

_TICKET_BYTES: Final = 16
_NO_DEFAULT: Final[Any] = ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ticket(Value, Generic[T]):
    """What ``step.prepare`` returns. Its ``id`` is for the other side, ``step.wait_for`` waits.

    .. versionadded:: 0.2.0
    """

    id: str
    name: str
    returns: Any = attrs.field(default=None, repr=False)
    default: Any = attrs.field(default=_NO_DEFAULT, repr=False)


class StepQuestions(StepPart):
    """The part of the step context that waits for answers. A base class of it."""

    @overload
    def ask(
        self,
        name: str,
        *,
        question: str = "",
        returns: type[T],
        timeout: Duration | None = None,
        default: T = _NO_DEFAULT,
    ) -> T: ...
    @overload
    def ask(
        self,
        name: str,
        *,
        question: str = "",
        returns: Any = None,
        timeout: Duration | None = None,
        default: Any = _NO_DEFAULT,
    ) -> Any: ...
    @entered_in_job
    def ask(
        self,
        name: str,
        *,
        question: str = "",
        returns: Any = None,
        timeout: Duration | None = None,
        default: Any = _NO_DEFAULT,
    ) -> Any:
        """Wait for a person or another program to answer, and return the answer.

        ``app.answer(run, name, value)`` answers, and may do so before the question is asked. The
        run leaves its thread meanwhile, as in ``sleep_until``. In a session and in ``app.run`` on a
        terminal or in a notebook it is asked right there, and others may answer after a Ctrl-C.

        Args:
            name: unique within the run, as the name of any step.
            question: for people; ``app.get_questions()`` has it.
            returns: the type of the answer; JSON-like data without one.
            timeout: seconds or a ``timedelta`` from the first call on, also across resumes.
            default: the result if the time is over; a value of the type *returns*. It needs a
                *timeout*.

        Raises:
            StepTimeoutError: the time is over, and there is no default. A retry of the run asks
                again.
            ValidationError: an argument is not acceptable.
            DuplicateStepError: a step of that name has already completed in this execution.
            StopRun: the run waits, or is to stop.

        .. versionadded:: 0.2.0
        """
        type_ = self._checked(question, returns, timeout, default, "step.ask")
        arguments = (name, question, type_, timeout, default)
        return self._step_runner.take(name, self._ask, arguments, {}, type_, on_change="ignore")

    def _ask(
        self, name: str, question: str, type_: Any, timeout: Duration | None, default: Any
    ) -> Any:
        new = self._question(name, question, type_, timeout)
        return self._answer_of(self._waiting.opened(new), type_, default)

    def _question(
        self,
        name: str,
        question: str,
        type_: Any,
        timeout: Duration | None,
        ticket: str | None = None,
    ) -> NewWait:
        from durably.codec.type_text import type_text  # noqa: PLC0415 - where first needed

        until_us, returns = self._waiting.deadline_us(timeout), type_text(type_)
        return NewWait(name, "answer", until_us, ticket, question, returns)

    @overload
    def prepare(
        self,
        name: str,
        *,
        question: str = "",
        returns: type[T],
        timeout: Duration | None = None,
        default: T = _NO_DEFAULT,
    ) -> Ticket[T]: ...
    @overload
    def prepare(
        self,
        name: str,
        *,
        question: str = "",
        returns: Any = None,
        timeout: Duration | None = None,
        default: Any = _NO_DEFAULT,
    ) -> Ticket[Any]: ...
    @entered_in_job
    def prepare(
        self,
        name: str,
        *,
        question: str = "",
        returns: Any = None,
        timeout: Duration | None = None,
        default: Any = _NO_DEFAULT,
    ) -> Ticket[Any]:
        """Make a question whose answer comes from work that is yet to be begun; do not wait.

        Hand the ``id`` of the ticket to the other side, which calls ``app.signal(id, value)``, and
        pass the ticket to ``wait_for``. Whatever is killed in between, the answer is not lost.

        Args: those of ``ask``; a *timeout* counts from here.

        Raises:
            ValidationError: an argument is not acceptable.
            DuplicateStepError: a step of that name has already completed in this execution.
            StopRun: the run is to stop.

        .. versionadded:: 0.2.0
        """
        type_ = self._checked(question, returns, timeout, default, "step.prepare")
        arguments = (name, question, type_, timeout)
        ticket = self._step_runner.take(name, self._prepare, arguments, {}, str, on_change="ignore")
        return Ticket(id=ticket, name=name, returns=type_, default=default)

    def _prepare(self, name: str, question: str, type_: Any, timeout: Duration | None) -> str:
        new = self._question(name, question, type_, timeout, os.urandom(_TICKET_BYTES).hex())
        ticket = self._waiting.opened(new).ticket
        if ticket is None:
            raise ValidationError(
                f"step {name!r:.80} of run {self._run.id} was asked with step.ask before; give the "
                "ticket another name"
            )
        return ticket

    def _answer_to(self, ticket: Ticket[T]) -> T:
        wait = self._waiting.found(ticket.name)
        result: T = self._answer_of(wait, ticket.returns, ticket.default)
        return result

    def _checked(
        self, question: object, returns: Any, timeout: Duration | None, default: Any, call: str
    ) -> Any:
        if not isinstance(question, str):
            raise ValidationError(f"question must be a str, not {short_repr(question)}")
        type_ = UNTYPED if returns is None else returns
        codec = self._services.codec
        codec.check_type(type_, f"{call}(returns=...)")
        if default is not _NO_DEFAULT:
            if timeout is None:
                raise ValidationError(
                    f"{call}(default=...) is the result when the time is over, and there is no "
                    "timeout; give it a timeout=..., or leave out the default"
                )
            # Now, and not at the deadline, when the run has waited for it.
            try:
                codec.encode(default, type_, what=f"{call}(default=...)")
            except SerializationError as exc:
                raise ValidationError(str(exc)) from None
        return type_

    def _prompt_for(self, wait: Wait, type_: Any) -> bool:
        """Ask the person in front of this thread; return whether to do so again."""
        services, run = self._services, self._run

        def checked(value: Any) -> str:
            what = f"the answer to {wait.name!r}"
            given = services.codec.structure(value, type_, what=what)
            return services.codec.encode(given, type_, what=what, has_parts=True)

        from durably.execution.prompting import Prompt  # noqa: PLC0415 - where first needed

        prompt = run.prompt = Prompt()
        try:
            text = prompt.ask(services.clock, wait.question or wait.name, type_, checked)
        finally:
            run.prompt = None
        if text is None:
            return False
        run.check()
        now_us = services.clock.now_us()
        try:
            services.checkpoints.answer(run.id, wait.name, text, None, now_us)
        except ConflictError as exc:
            logger.warning("%s", exc)  # it was answered elsewhere, or this is too late
        return True

    def _answer_of(self, wait: Wait, type_: Any, default: Any) -> Any:
        waiting, name = self._waiting, wait.name

        def has_come() -> bool:
            return waiting.found(name).answer is not None

        may_prompt = self._run.keeps_thread and _can_ask_here()
        while True:
            if wait.answer is not None:
                try:
                    return self._services.codec.decode(
                        wait.answer, type_, what="the answer to", name=name
                    )
                except ValidationError as exc:
                    # It came before its question, or from a process that does not know the type.
                    logger.warning(
                        "%s: an answer to %r does not fit, and is waited for again: %s",
                        short_name(self._run.id, self._run.job_name, None),
                        name,
                        exc,
                    )
                waiting.discard_answer(name)
            elif wait.closed_at_us is not None:
                if default is _NO_DEFAULT:
                    raise waiting.timed_out(name, wait)
                return default
            elif wait.until_us is not None and waiting.seconds_until(wait.until_us) <= 0:
                wait = waiting.closed(name)
                continue
            if may_prompt:
                # Once: after a Ctrl-C it only waits, and the next one ends that.
                may_prompt = self._prompt_for(wait, type_)
                wait = waiting.found(name)
                continue
            waiting.for_change(Suspended("answer", name, wait.until_us), has_come)
            wait = waiting.found(name)


def _can_ask_here() -> bool:
    """Return whether a person is in front of the calling thread."""
    from durably.execution.prompting import can_ask_here  # noqa: PLC0415 - where first needed

    return can_ask_here()
