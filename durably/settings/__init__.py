"""The options of an engine, with their defaults and their checks."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, get_args

import attrs

from durably._platform.interactive import is_interactive
from durably._platform.safe_repr import short_repr
from durably._platform.tracebacks import passes_on
from durably._platform.unhandled import install_hooks
from durably._platform.values import Value
from durably.errors import ValidationError

Synchronous = Literal["full", "normal"]
OnDuplicateStep = Literal["error", "reuse"]
OnChange = Literal["warn", "redo", "ignore"]
OnPayloadChange = Literal["warn", "refuse", "extend"]
Coalesce = bool | Literal["pending", "active"]
IfRunning = Literal["wait", "skip", "error"]
Duration = float | timedelta


class ProgressSink(Protocol):
    """What ``show=`` takes to display progress in another way, as ``tqdm_sink`` of durably does.

    Its methods are called by one thread of durably's, a few times a second, for calls that last
    longer than half a second; ``close`` once, at the end of the call.

    .. versionadded:: 0.2.0
    """

    def update(
        self, done: float, total: float | None, *, reused: float, failed: int, name: str
    ) -> object:
        """Take how far a run is, or how many of several have ended.

        Args:
            done: steps, items, or what the job reports, those from checkpoints included.
            total: how much there is, if that is known.
            reused: how much of *done* came from checkpoints.
            failed: items, or runs of several.
            name: of the job, for people.
        """

    def close(self) -> object:
        """Take note that the call ends."""


# What ``show=`` takes: whether progress is displayed, ``None`` to decide by where it would go.
Show = bool | ProgressSink | None

_AGE: Final = r"([0-9]+)([dhm])"
_AGE_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})
_LONGEST_S: Final = timedelta(days=36_500).total_seconds()


@passes_on
def check_option_names(call: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise ``TypeError`` as Python does if a call got an option that it does not know."""
    for option in given:
        if option not in known:
            from difflib import get_close_matches  # noqa: PLC0415 - where first needed

            install_hooks()  # no engine may have been opened
            near = get_close_matches(option, known, n=1)
            meant = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{call}() got an unexpected keyword argument {option!r}{meant}")


def seconds(value: object, what: str) -> float:
    """Return *value*, a number of seconds or a ``timedelta``, as finite seconds.

    Raises:
        ValidationError: it is neither; the message begins with *what*.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, bool) and isinstance(value, int | float):
        # An int can be larger than any float.
        with suppress(OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise ValidationError(
        f"{what} must be a number of seconds or a timedelta, not {short_repr(value)}"
    )


def optional_timeout(value: Duration | None, what: str = "timeout") -> float | None:
    """Return a timeout in seconds, at most what a timer can wait; ``None`` for no limit.

    Raises:
        ValidationError: it is negative, or no duration; the message begins with *what*.
    """
    return None if value is None else waitable(value, what)


def time_limit(value: Duration | None, what: str = "timeout") -> float | None:
    """Return how long something may take, in seconds; ``None`` for no limit.

    Raises:
        ValidationError: it is not positive, or no duration; the message begins with *what*.
    """
    limit_s = optional_timeout(value, what)
    if limit_s == 0:
        raise ValidationError(f"{what} must be greater than zero")
    return limit_s


def waitable(value: object, what: str) -> float:
    """Return *value* in seconds, at most what a timer can wait, which is some 300 years.

    Raises:
        ValidationError: it is negative, or no duration; the message begins with *what*.
    """
    wait_s = seconds(value, what)
    if wait_s < 0:
        raise ValidationError(f"{what} must not be negative, not {short_repr(value)}")
    # The threading module raises OverflowError for more.
    return min(wait_s, threading.TIMEOUT_MAX)


def count(value: object, what: str, *, below: float = 2**63) -> int:
    """Return *value* if it is an int that is not negative.

    Raises:
        ValidationError: it is not, or not less than *below*; the message begins with *what*.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise ValidationError(
            f"{what} must be an int that is not negative, not {short_repr(value)}"
        )
    return value


def age(value: object, what: str) -> timedelta:
    """Return a positive age.

    *value* is seconds, a ``timedelta``, or text such as ``"30d"``, ``"24h"`` or ``"60m"``.

    Raises:
        ValidationError: it is none of these; the message begins with *what*.
    """
    found: timedelta | None = None
    if isinstance(value, timedelta):
        found = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError, ValueError):  # too large, or not a number
            found = timedelta(seconds=value)
    elif isinstance(value, str) and (match := re.fullmatch(_AGE, value)):
        try:
            found = timedelta(**{_AGE_UNITS[match[2]]: int(match[1])})
        except (OverflowError, ValueError):
            found = None
    if found is None or not timedelta(0) < found or found.total_seconds() > _LONGEST_S:
        raise ValidationError(
            f"{what} must be a positive number of seconds, a timedelta or text such as "
            f'"30d", "24h" or "60m", of 100 years at most, not {short_repr(value)}'
        )
    return found


def check_on_duplicate_step(value: object) -> None:
    """Raise ``ValidationError`` if *value* is not a value of ``on_duplicate_step``."""
    check_choice(value, "on_duplicate_step", OnDuplicateStep)


def check_on_change(value: object, what: str = "on_change") -> None:
    """Raise ``ValidationError`` if *value* is not ``None`` or a value of ``on_change``."""
    if value is not None:
        check_choice(value, what, OnChange)


def check_choice(value: object, what: str, choices: Any) -> None:
    """Raise ``ValidationError`` if *value* is not one of the texts of the literal *choices*."""
    known = get_args(choices)
    if not isinstance(value, str) or value not in known:
        listed = ", ".join(f'"{each}"' for each in known[:-1]) + f' or "{known[-1]}"'
        raise ValidationError(f"{what} must be {listed}, not {short_repr(value)}")


def check_bool(value: object, what: str) -> None:
    """Raise ``ValidationError`` if *value* is not a bool; the message begins with *what*."""
    if not isinstance(value, bool):
        raise ValidationError(f"{what} must be True or False, not {short_repr(value)}")


def check_show(value: object) -> None:
    """Raise ``ValidationError`` if *value* is not a value of ``show``."""
    if value is None or isinstance(value, bool):
        return
    if not all(callable(getattr(value, name, None)) for name in ("update", "close")):
        raise ValidationError(
            f"show must be True, False, None or what tqdm_sink() returns, not {short_repr(value)}"
        )


def show_by_environment() -> bool | None:
    """Return what the environment variable ``DURABLY_SHOW`` says; ``None`` without one.

    Raises:
        ValidationError: it says something else than yes or no.
    """
    text = os.environ.get("DURABLY_SHOW", "").strip().lower()
    if text in ("", "auto"):
        return None
    if text not in _YES | _NO:
        raise ValidationError(
            f"the environment variable DURABLY_SHOW must be 1, 0 or auto, not {short_repr(text)}"
        )
    return text in _YES


def _interval(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= _LONGEST_S:
        raise ValidationError(
            f"{attribute.name}={value!r} must be greater than zero seconds, and 100 years at most"
        )


def _heartbeat_interval(value: Duration) -> float:
    return seconds(value, "heartbeat_interval")


def _stale_threshold(value: Duration) -> float:
    return seconds(value, "stale_threshold")


def _poll_interval(value: Duration) -> float:
    return seconds(value, "poll_interval")


def _retain_runs(value: Duration | str | None) -> timedelta | None:
    return None if value is None else age(value, "retain_runs")


def _blobs(value: object) -> str | Literal[False] | None:
    if value is None or value is False:
        return value
    try:
        path = os.fspath(value)  # type: ignore[call-overload]  # checked here
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValidationError(
            f"blobs must be the path of a folder, False or None, not {short_repr(value)}"
        )
    return os.path.abspath(path)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Settings(Value):
    """What an engine was opened with, checked. Durations in seconds."""

    max_workers: int = attrs.field(default=4)
    heartbeat_interval: float = attrs.field(
        default=5.0, converter=_heartbeat_interval, validator=_interval
    )
    stale_threshold: float = attrs.field(
        default=30.0, converter=_stale_threshold, validator=_interval
    )
    poll_interval: float = attrs.field(default=1.0, converter=_poll_interval, validator=_interval)
    synchronous: Synchronous = attrs.field(default="full")
    preserve_steps: bool = attrs.field(default=True)
    retain_runs: timedelta | None = attrs.field(default=None, converter=_retain_runs)
    on_duplicate_step: OnDuplicateStep = attrs.field(default="error")
    max_deaths: int = attrs.field(default=5)
    raise_failed: bool = attrs.field(default=True)
    persist_logs: bool = attrs.field(default=False)
    create: bool = attrs.field(default=True)
    replace: bool | None = attrs.field(default=None)
    show: Show = attrs.field(default=None)
    blobs: str | Literal[False] | None = attrs.field(default=None, converter=_blobs)

    @max_workers.validator
    def _is_a_sane_bound(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
            raise ValidationError(
                f"max_workers must be an int from 1 to 1000, not {short_repr(value)}"
            )

    @max_deaths.validator
    def _is_a_number_of_deaths(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValidationError(
                f"max_deaths must be an int of at least 1, not {short_repr(value)}"
            )

    @stale_threshold.validator
    def _outlives_a_lost_heartbeat(self, attribute: attrs.Attribute[float], value: float) -> None:
        _interval(self, attribute, value)
        if value < 2 * self.heartbeat_interval:
            raise ValidationError(
                f"stale_threshold={value} must be at least twice "
                f"heartbeat_interval={self.heartbeat_interval}, so that one lost heartbeat "
                "does not count as death"
            )

    @synchronous.validator
    def _is_a_known_mode(self, _: object, value: object) -> None:
        if value not in ("full", "normal"):
            raise ValidationError(
                f'synchronous must be "full" or "normal", not {short_repr(value)}'
            )

    @on_duplicate_step.validator
    def _is_a_known_way(self, _: object, value: object) -> None:
        check_on_duplicate_step(value)

    @preserve_steps.validator
    @raise_failed.validator
    @persist_logs.validator
    @create.validator
    def _is_a_bool(self, attribute: attrs.Attribute[bool], value: object) -> None:
        check_bool(value, attribute.name)

    @replace.validator
    def _is_a_bool_or_none(self, _: object, value: object) -> None:
        if value is not None and not isinstance(value, bool):
            raise ValidationError(f"replace must be True, False or None, not {short_repr(value)}")

    @show.validator
    def _is_a_way_to_show(self, _: object, value: object) -> None:
        check_show(value)

    @property
    def replaces(self) -> bool:
        """Return whether a new engine replaces those that this process has open on its file."""
        return is_interactive() if self.replace is None else self.replace
