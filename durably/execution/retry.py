"""Retries of one step: how often, and how long to wait in between."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import attrs

from durably._platform.clock import jittered
from durably._platform.safe_repr import short_repr
from durably._platform.signals import let_through
from durably.errors import ValidationError
from durably.settings import Duration, waitable
from durably.values import Value

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


def _wait(value: Any) -> Any:
    return value if callable(value) else waitable(value, "Retry.wait")


def _max_wait(value: Duration) -> float:
    return waitable(value, "Retry.max_wait")


@attrs.frozen(eq=False, repr=False)
class Retry(Value):
    """How often a step's function is called again: ``step.options(retry=Retry(attempts=5))``.

    Args:
        attempts: how often the function is called at most, the first time included.
        wait: seconds (or a ``timedelta``) before the second call; or a function of the exception
            that returns how long to wait before the next one.
        backoff: the factor by which each further wait is longer than the one before.
        max_wait: the longest wait, in seconds (or a ``timedelta``). This and *wait* are cut to
            what a timer can wait, some 300 years.
        jitter: wait a random time between half of that and all of it, so that many
            runs do not try again at the same instant.
        on: the exception type, or a tuple of types, after which the function is called again; or a
            function of the exception that returns whether it is, or how long to wait before that
            (the ``Retry-After`` of a server).

    Raises:
        ValidationError: a value is out of its range or of a wrong type.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        *on* and *wait* may be functions.
    """

    attempts: int = attrs.field(default=3)
    wait: float | Callable[[Exception], Duration] = attrs.field(default=1.0, converter=_wait)
    backoff: float = attrs.field(default=2.0)
    max_wait: float = attrs.field(default=60.0, converter=_max_wait)
    jitter: bool = attrs.field(default=True)
    on: ExceptionTypes | Callable[[Exception], bool | Duration] = attrs.field(default=Exception)

    @attempts.validator
    def _is_a_count(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValidationError(
                f"Retry.attempts must be an int of at least 1, not {short_repr(value)}"
            )

    @backoff.validator
    def _does_not_shrink(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < inf:
            raise ValidationError(
                f"Retry.backoff must be a number of at least 1, not {short_repr(value)}"
            )

    @jitter.validator
    def _is_a_bool(self, _: object, value: object) -> None:
        if not isinstance(value, bool):
            raise ValidationError(f"Retry.jitter must be True or False, not {short_repr(value)}")

    @on.validator
    def _is_exceptions(self, _: object, value: object) -> None:
        if callable(value) and not isinstance(value, type):
            return
        types = value if isinstance(value, tuple) else (value,)
        if not types or not all(isinstance(t, type) and issubclass(t, Exception) for t in types):
            raise ValidationError(
                "Retry.on must be an exception type, a tuple of them, or a function of an "
                f"exception, not {short_repr(value)}"
            )


def next_wait_s(retry: Retry, exc: Exception, failures: int) -> float | None:
    """Return the seconds to wait after the *failures*-th failure; ``None`` for no further call.

    Raises:
        ValidationError: a function of the user's has returned no answer.
    """
    if failures >= retry.attempts:
        return None
    on, wait = retry.on, retry.wait
    if isinstance(on, type | tuple):
        if not isinstance(exc, on):
            return None
    else:
        answer = let_through(on, exc)
        if not isinstance(answer, bool):
            return waitable(answer, "what Retry.on returns")
        if not answer:
            return None
    if callable(wait):
        return waitable(let_through(wait, exc), "what Retry.wait returns")
    return wait_s(retry, failures)


def wait_s(retry: Retry, failures: int) -> float:
    """Return the seconds to wait after the *failures*-th failure, if that is no function."""
    first_s: float = retry.wait  # type: ignore[assignment]  # not a function here
    try:
        wait = min(first_s * float(retry.backoff) ** (failures - 1), retry.max_wait)
    except OverflowError:
        wait = retry.max_wait if first_s else 0.0
    return jittered(wait) if retry.jitter else wait
