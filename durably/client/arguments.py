"""What a caller passes to the calls about runs, and its checks.

It is apart from what executes the calls, which only an engine that is open imports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import attrgetter, is_
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Never,
    Self,
    TypeVar,
    cast,
    overload,
)

import attrs

from durably._platform.clock import from_datetime
from durably._platform.safe_repr import short_repr, type_name
from durably._platform.signals import let_through
from durably._platform.values import Value
from durably.errors import ValidationError
from durably.jobs.names import check_storable, check_text, not_a_str
from durably.models import Progress, Run, RunStatus
from durably.settings import (
    Coalesce,
    Duration,
    OnPayloadChange,
    time_limit,
    waitable,
)

if TYPE_CHECKING:
    from durably.models.records import LogEntry
    from durably.settings.retries import Retry

P = TypeVar("P")
T = TypeVar("T")

StatusFilter = RunStatus | str | Iterable[RunStatus | str] | None
NameFilter = str | Iterable[str] | None
AnyRun = Run[Any, Any]
OnProgress = Callable[[Progress], object]
OnLog = Callable[["LogEntry"], object]

_write_labels: Final = json.JSONEncoder(ensure_ascii=False).encode


_LABEL_KEY: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"


class _NotGiven:
    """Stands for a payload that was not given; ``None`` may be a payload."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<not given>"

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final[Any] = _NotGiven()


@attrs.frozen(eq=False, repr=False)
class Trigger(Value, Generic[P]):
    """One item of ``batch_trigger`` with options of its own.

    Args:
        payload: as for ``JobHandle.trigger``, and so are the options. Without it the attribute
            has a value that means no payload.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0 Has ``on_payload_change``, ``run_at``, ``delay``, ``retry`` and
        ``timeout``.
    """

    payload: P | None = NOT_GIVEN
    idempotency_key: str | None = attrs.field(default=None, kw_only=True)
    concurrency_key: str | None = attrs.field(default=None, kw_only=True)
    coalesce: Coalesce = attrs.field(default=False, kw_only=True)
    retry_failed: bool = attrs.field(default=False, kw_only=True)
    on_payload_change: OnPayloadChange = attrs.field(default="warn", kw_only=True)
    run_at: datetime | None = attrs.field(default=None, kw_only=True)
    delay: Duration | None = attrs.field(default=None, kw_only=True)
    retry: Retry | None = attrs.field(default=None, kw_only=True)
    timeout: Duration | None = attrs.field(default=None, kw_only=True)
    labels: dict[str, str] | None = attrs.field(default=None, kw_only=True)


_OPTIONS: Final = {
    field.name: field.default for field in attrs.fields(Trigger) if field.name != "payload"
}
_options_of: Final = attrgetter(*_OPTIONS)
_NO_OPTIONS: Final = tuple(_OPTIONS.values())


def has_options(trigger: Trigger[Any]) -> bool:
    """Return whether a trigger has more than a payload, so that there is something to check."""
    return not all(map(is_, _options_of(trigger), _NO_OPTIONS))


class ReadOnly(Generic[T]):
    """A decorator like ``property`` whose attribute IPython evaluates for its completions.

    IPython does not evaluate a ``property``, because that may have effects.
    """

    def __init__(self, getter: Callable[[Any], T]) -> None:
        self._getter = getter
        self.__doc__ = getter.__doc__

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Self | T:
        return self if instance is None else self._getter(instance)

    def __set__(self, instance: object, value: Never) -> None:
        raise AttributeError(f"{self._getter.__name__} is read-only")


def several(items: Any, what: str) -> list[Any]:
    """Return *items* as a list.

    Raises:
        ValidationError: it is text, a mapping or not iterable; the message begins with *what*.
    """
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise ValidationError(
            f"{what} must be an iterable, such as a list, not {type_name(items)}; write [...] "
            "around a single one"
        )
    return let_through(list, items)


def checked_key(key: object, name: str) -> str | None:
    """Return a key as it is stored; *name* is that of the argument."""
    return None if key is None else _plain(check_text(key, name))


def _plain(text: str) -> str:
    """Return the characters of *text*; ``str()`` of a subclass, such as an enum, may differ."""
    return str.__str__(text)


def checked_start(run_at: object, delay: Any, now_us: int) -> int | None:
    """Return when a run may begin, in microseconds since the epoch; ``None`` for at once.

    Raises:
        ValidationError: both are given, or one is not acceptable.
    """
    if run_at is not None and delay is not None:
        raise ValidationError("run_at and delay both say when the run may begin; pass one of them")
    if run_at is not None:
        if not isinstance(run_at, datetime):
            raise ValidationError(f"run_at must be an aware datetime, not {short_repr(run_at)}")
        if run_at.utcoffset() is None:
            raise ValidationError("run_at must be an aware datetime; this one has no time zone")
        at_us = from_datetime(run_at)
    elif delay is not None:
        at_us = now_us + int(waitable(delay, "delay") * 1e6)
    else:
        return None
    return at_us if at_us > now_us else None


def checked_retry(retry: object) -> str | None:
    """Return how a run is tried again as it is stored.

    Raises:
        ValidationError: it is no ``Retry``, or one that cannot be stored.
    """
    if retry is None:
        return None
    from durably.settings.retries import check_retry, stored_retry  # noqa: PLC0415 - where first needed

    check_retry(retry)
    return stored_retry(cast("Retry", retry))


def checked_timeout_us(timeout: Duration | None) -> int | None:
    """Return how long an execution may take, in microseconds."""
    limit_s = time_limit(timeout)
    return None if limit_s is None else max(1, int(limit_s * 1e6))


def checked_labels(labels: object) -> str:
    """Return labels as they are stored; raise ``ValidationError`` if they are not labels."""
    if labels is None:
        return "{}"
    if not isinstance(labels, dict):
        raise ValidationError(f"labels must be a dict of str to str, not {type_name(labels)}")
    # A copy of the items now, whatever a subclass returns or another thread changes meanwhile.
    items = list(dict.items(labels))
    for key, value in items:
        if not isinstance(key, str) or not re.fullmatch(_LABEL_KEY, key):
            raise ValidationError(
                f"label key {short_repr(key)} must match {_LABEL_KEY}: letters, digits and "
                "._/- after a letter or digit, 63 characters at most"
            )
        if not isinstance(value, str):
            raise not_a_str(value, f"label {short_repr(key)}")
        check_storable(value, f"label {short_repr(key)}")
    plain = {_plain(key): _plain(value) for key, value in items}
    return _write_labels(plain)


def run_id_of(run: Run[Any, Any] | str) -> str:
    """Return the id of *run*, a ``Run`` or an id."""
    if isinstance(run, Run):
        return run.id
    if isinstance(run, str):
        # No run has an id that cannot be stored, or one in quotes.
        return run if run.isascii() else ascii(run)
    raise ValidationError(f"a run must be a Run or its id, not {type_name(run)}")
