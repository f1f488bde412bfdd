"""Retries of a step, an item or a run: how often, and how long to wait in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from typing import Any, Final, Literal

import attrs

from durably._platform.clock import jittered
from durably._platform.safe_repr import full_name, short_repr
from durably._platform.signals import let_through
from durably._platform.values import Value
from durably.errors import ValidationError
from durably.settings import Duration, waitable

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]
OnExhausted = Literal["fail"]

_MAX_WAIT_S: Final = 60.0
_NUMBERS: Final = ("attempts", "wait", "backoff", "max_wait", "jitter")


def _wait(value: Any) -> Any:
    return value if callable(value) else waitable(value, "Retry.wait")


def _max_wait(value: Duration) -> float:
    return waitable(value, "Retry.max_wait")


@attrs.frozen(eq=False, repr=False)
class Retry(Value):
    """How often something is tried again after a failure.

    Of a step, ``step.options(retry=Retry(attempts=5))``, and of the items of a map, the function is
    called again. Of a run, ``@job(retry=Retry(attempts=5, wait=60))``, the job is executed again,
    with its checkpoints; the run waits for that as a pending one, without a thread.

    Args:
        attempts: how often it is tried at most, the first time included. Of a run, how often it may
            have failed since it was triggered or retried by hand.
        wait: seconds (or a ``timedelta``) before the second try; or a function of the exception
            that returns how long to wait before the next one.
        backoff: the factor by which each further wait is longer than the one before.
        max_wait: the longest wait, in seconds (or a ``timedelta``); by default a minute, and 60
            times *wait* where that is a minute or more. This and *wait* are cut to what a timer can
            wait, some 300 years.
        jitter: wait a random time between half of that and all of it, so that many
            runs do not try again at the same instant.
        on: the exception type, or a tuple of types, after which it is tried again; or a function of
            the exception that returns whether it is, or how long to wait before that (the
            ``Retry-After`` of a server).
        on_exhausted: what happens after the last try. There is one way: ``"fail"``, as without
            retries.

    Raises:
        ValidationError: a value is out of its range or of a wrong type.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        *on* and *wait* may be functions. Has *on_exhausted*. *max_wait* grows with *wait*.
    """

    attempts: int = attrs.field(default=3)
    wait: float | Callable[[Exception], Duration] = attrs.field(default=1.0, converter=_wait)
    backoff: float = attrs.field(default=2.0)
    max_wait: float = attrs.field(converter=_max_wait)
    jitter: bool = attrs.field(default=True)
    on: ExceptionTypes | Callable[[Exception], bool | Duration] = attrs.field(default=Exception)
    on_exhausted: OnExhausted = attrs.field(default="fail")

    @max_wait.default
    def _has_room_for_backoff(self) -> float:
        wait = self.wait
        return _MAX_WAIT_S if callable(wait) or wait < _MAX_WAIT_S else 60 * wait

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

    @on_exhausted.validator
    def _is_a_known_way(self, _: object, value: object) -> None:
        if value != "fail":
            raise ValidationError(f'Retry.on_exhausted must be "fail", not {short_repr(value)}')


def check_retry(value: object) -> None:
    """Raise ``ValidationError`` if *value* is neither a ``Retry`` nor ``None``."""
    if value is not None and not isinstance(value, Retry):
        raise ValidationError(f"retry must be a Retry, not {short_repr(value)}")


def has_functions(retry: Retry) -> bool:
    """Return whether code of the user's decides."""
    return callable(retry.wait) or not isinstance(retry.on, type | tuple)


def stored_retry(retry: Retry) -> str:
    """Return *retry* as it is stored with a run that any process may execute, as JSON text.

    Raises:
        ValidationError: it has a function, which cannot be stored.
    """
    if has_functions(retry):
        raise ValidationError(
            "retry has a function, which cannot be stored with a run; write it at the job: "
            "@job(retry=...)"
        )
    on: Any = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    values = {name: getattr(retry, name) for name in _NUMBERS}
    return json.dumps(values | {"on": [full_name(each) for each in on]})


def loaded_retry(text: str) -> Retry:
    """Return what was stored; exceptions are identified by the names of their types.

    Raises:
        ValueError: it is not in the form that durably writes.
    """
    values = json.loads(text)
    is_right = isinstance(values, dict) and values.keys() == {*_NUMBERS, "on"}
    names = values.pop("on") if is_right else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it is not a stored retry")

    def is_named(exc: Exception) -> bool:
        return any(full_name(each) in names for each in type(exc).__mro__)

    return Retry(**values, on=is_named)


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
