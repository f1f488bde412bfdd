"""The options of a map, checked before anything of it is executed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Generic, Literal, TypedDict, TypeVar, get_args

import attrs

from durably._platform.safe_repr import short_repr, type_name
from durably.codec import NOTHING, Codec, return_type_of
from durably.errors import ValidationError
from durably.execution.changes import checked_change
from durably.execution.pacing import RateLimit, check_rate
from durably.settings import Duration, OnChange, time_limit
from durably.settings.retries import Retry

OnFailed = Literal["raise", "return"]
Item = TypeVar("Item")


# Processes of the map's own; an executor; or a function without parameters that makes one.
ExecutorOption = Literal["process"] | Executor | Callable[[], Executor] | None


class LoopArguments(TypedDict, Generic[Item], total=False):
    """The optional arguments of a map, but for ``returns``."""

    key: Callable[[Item], str | int] | None
    max_workers: int
    executor: ExecutorOption
    chunk: int | None
    retry: Retry | None
    timeout: Duration | None
    per_second: float | RateLimit | None
    max_failures: float | None
    on_failed: OnFailed
    max_uncommitted: int
    total: int | None
    on_change: OnChange | None
    depends_on: Any


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LoopOptions:
    """What a map was called with.

    ``result_type`` is the type of a result, ``rate`` limits how often an item begins, and
    ``depends_on`` is text.
    """

    what: str
    fn: Callable[[Any], Any]
    items: Iterable[Any]
    key: Callable[[Any], Any] | None
    max_workers: int | None
    executor: Any
    chunk: int | None
    retry: Retry | None
    timeout_s: float | None
    result_type: Any
    rate: RateLimit | None
    max_failures: float | None
    on_failed: OnFailed
    max_uncommitted: int
    total: int | None
    on_change: OnChange | None
    depends_on: str | None


def checked(
    call: str,
    name: object,
    fn: Any,
    items: Any,
    codec: Codec,
    *,
    key: Any = None,
    max_workers: Any = None,
    executor: object = None,
    chunk: object = None,
    retry: Any = None,
    timeout: Duration | None = None,
    returns: Any = None,
    per_second: Any = None,
    max_failures: Any = None,
    on_failed: Any = "raise",
    max_uncommitted: Any = 256,
    total: Any = None,
    on_change: Any = None,
    depends_on: Any = None,
) -> LoopOptions:
    """Return the options of a map.

    Raises:
        ValidationError: one of them is not what it must be.
    """
    what = f"{call}({name!r:.80})"
    if not callable(fn):
        raise ValidationError(f"{what}: fn must be a function, not {type_name(fn)}")
    if key is not None and not callable(key):
        raise ValidationError(
            f"{what}: key must be a function of an item, such as lambda item: item.id, "
            f"not {type_name(key)}"
        )
    _check_items(what, items, has_key=key is not None)
    _check_executor(what, executor)
    if chunk is not None:
        _check_chunk(what, chunk, executor, per_second)
    if retry is not None and not isinstance(retry, Retry):
        raise ValidationError(f"{what}: retry must be a Retry, not {short_repr(retry)}")
    if returns is not None and returns is not NOTHING:
        codec.check_type(returns, f"{what}: returns")
    if not isinstance(on_failed, str) or on_failed not in get_args(OnFailed):
        raise ValidationError(
            f'{what}: on_failed must be "raise" or "return", not {short_repr(on_failed)}'
        )
    change, dependence = checked_change(what, on_change, depends_on)
    timeout_s = time_limit(timeout, f"{what}: timeout")
    return LoopOptions(
        what=what,
        fn=fn,
        items=items,
        key=key,
        max_workers=(
            None if max_workers is None else _count(max_workers, f"{what}: max_workers", 1)
        ),
        executor=executor,
        chunk=chunk,  # type: ignore[arg-type]  # it was checked
        retry=retry,
        timeout_s=timeout_s,
        result_type=return_type_of(fn) if returns is None else returns,
        rate=_rate(per_second, what),
        max_failures=_max_failures(max_failures, what),
        on_failed=on_failed,  # type: ignore[arg-type]  # it was checked
        max_uncommitted=_count(max_uncommitted, f"{what}: max_uncommitted", 1),
        total=_total(items) if total is None else _count(total, f"{what}: total", 0),
        on_change=change,
        depends_on=dependence,
    )


def _check_executor(what: str, executor: object) -> None:
    is_word = isinstance(executor, str)
    if executor is None or executor == "process" or (not is_word and callable(executor)):
        return
    if not isinstance(executor, Executor):
        raise ValidationError(
            f'{what}: executor must be "process", a concurrent.futures.Executor, or a function '
            f"without parameters that makes one, not {short_repr(executor)}; for threads pass "
            "max_workers alone"
        )


def _check_chunk(what: str, chunk: object, executor: object, per_second: object) -> None:
    if _count(chunk, f"{what}: chunk", 1) == 1:
        return
    if executor is None:
        raise ValidationError(
            f"{what}: threads execute items one by one; leave chunk out, or pass an executor"
        )
    if per_second is not None:
        raise ValidationError(
            f"{what}: the items of a chunk begin at once, which per_second forbids; leave chunk out"
        )


def _check_items(what: str, items: object, *, has_key: bool) -> None:
    if isinstance(items, str | bytes | bytearray):
        raise ValidationError(
            f"{what}: items must not be {type_name(items)}, whose items are its characters; "
            "write [...] around a single one, or list(...) if that is meant"
        )
    is_sequence = not isinstance(items, type) and hasattr(items, "__getitem__")
    if not isinstance(items, Iterable) and not is_sequence:
        raise ValidationError(
            f"{what}: items must be an iterable, such as a list, not {type_name(items)}"
        )
    if isinstance(items, set | frozenset) and not has_key:
        raise ValidationError(
            f"{what}: a {type_name(items)} has another order in each process, so its items need "
            "key=, such as key=str; or pass sorted(...)"
        )


def _total(items: object) -> int | None:
    if isinstance(items, list | tuple | range | Mapping | set | frozenset):
        return len(items)
    try:
        total = len(items)  # type: ignore[arg-type]  # it may have one
    except Exception:  # noqa: BLE001 - a len() of the user's may raise anything
        return None
    return total


def _count(value: object, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValidationError(f"{what} must be an int of at least {least}, not {short_repr(value)}")
    return value


def _rate(value: object, what: str) -> RateLimit | None:
    if value is None or isinstance(value, RateLimit):
        return value
    check_rate(value, f"{what}: per_second")
    return RateLimit(value)  # type: ignore[arg-type]  # it was checked


def _max_failures(value: object, what: str) -> float | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_fraction = isinstance(value, float) and 0 <= value < 1
    if value is None or is_count or is_fraction:
        return value  # type: ignore[return-value]  # one of these
    raise ValidationError(
        f"{what}: max_failures must be a number of items, or a fraction of them below 1.0, "
        f"not {short_repr(value)}"
    )
