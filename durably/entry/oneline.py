"""A script in one line: ``durably.run``, ``durably.map``, ``durably.imap``."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict, TypeVar, Unpack, overload

from durably._platform.safe_repr import short_repr, type_name
from durably._platform.signals import deferred, entered
from durably.client.arguments import NOT_GIVEN
from durably.client.run_options import RunOptions
from durably.codec import Codec
from durably.entry.engine import Durably
from durably.entry.engine_options import EngineOptions
from durably.entry.sessions import Session, open_session
from durably.errors import ValidationError
from durably.execution.loops.options import LoopArguments, checked
from durably.jobs import Job
from durably.settings import Show, check_option_names

if TYPE_CHECKING:
    from durably.execution.loops.results import MapResult
    from durably.models.records import ItemRecord

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")
Item = TypeVar("Item")

_OF_THE_RUN: Final = frozenset(RunOptions.__annotations__)


class _ForOneCall(Durably):
    """An engine that stays beside those that a notebook has open on the file."""

    _is_beside = True


class _Options(RunOptions, EngineOptions, total=False):
    """Those of the run and of the engine."""


class _OfTheSession(TypedDict, total=False):
    fresh: bool
    labels: dict[str, str] | None
    show: Show


class MapOptions(LoopArguments[Item], _OfTheSession, EngineOptions, Generic[Item], total=False):
    """The options of a map, of its session and of the engine; ``max_workers`` is the map's."""


_OF_THE_SESSION: Final = frozenset(_OfTheSession.__annotations__)
_OF_THE_MAP: Final = frozenset(LoopArguments.__annotations__)


@entered
def run(
    job: Job[P, R],
    payload: P | Mapping[str, Any] | None = NOT_GIVEN,
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    **options: Unpack[_Options],
) -> R:
    """Bring a run to its end in the calling thread, and return its output.

    Opens an engine on *db*, calls ``Durably.run``, and closes it. Blocks until then. Usable from
    any thread; Ctrl-C reaches only the main one.

    Args:
        db: the SQLite file. ``None`` for the one that the environment variable ``DURABLY_DB``
            names, else ``durably.db``.
        options: those of ``Durably.run`` and of ``Durably``.

    Returns:
        The output of the completed run. With ``if_running="skip"`` it is ``None`` if the run was
        skipped.

    Raises:
        TypeError: there is no such option.

    It also raises the errors of ``Durably`` and of ``Durably.run``.

    .. versionadded:: 0.2.0
    """
    check_option_names("run", options, _Options.__annotations__)
    given: dict[str, Any] = dict(options)
    of_run: dict[str, Any] = {name: given.pop(name) for name in _OF_THE_RUN & given.keys()}
    app = (Durably if given.get("replace") else _ForOneCall)(db, **given)
    try:
        done: R | None = app.run(job, payload, **of_run).output
    finally:
        app.close()
    return done  # type: ignore[return-value]  # of a completed run it is an R


@overload
def map(  # noqa: A001 - the contract's name
    fn: Callable[[Item], T],
    items: Iterable[Item],
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    name: str | None = None,
    returns: None = None,
    **options: Unpack[MapOptions[Item]],
) -> MapResult[T]: ...
@overload
def map(  # noqa: A001 - the contract's name
    fn: Callable[[Item], object],
    items: Iterable[Item],
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    name: str | None = None,
    returns: type[U],
    **options: Unpack[MapOptions[Item]],
) -> MapResult[U]: ...
@overload
def map(  # noqa: A001 - the contract's name
    fn: Callable[[Item], object],
    items: Iterable[Item],
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    name: str | None = None,
    returns: Any,
    **options: Unpack[MapOptions[Item]],
) -> MapResult[Any]: ...
@entered
def map(  # noqa: A001 - the contract's name
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    name: str | None = None,
    returns: Any = None,
    **options: Unpack[MapOptions[Any]],
) -> MapResult[Any]:
    """Call ``fn(item)`` for each item, and store each result by the item's key.

    It is a session with one ``StepContext.map``, and there is one for file and name: called again,
    in the same program or the next start of it, it executes the items that are missing and those
    that failed, and returns the stored results of all others. Blocks until all items have ended.
    Usable from any thread; Ctrl-C reaches only the main one, and leaves what is stored.

    Args:
        db: the SQLite file. ``None`` for the one that the environment variable ``DURABLY_DB``
            names, else ``durably.db``.
        name: of the session and its step; by default the qualified name of *fn*, without its
            module. A lambda, a ``functools.partial`` and other objects without a name of their own
            need it. A bound method has the name of its class and function, whatever its object.
        returns: the type of a result, if *fn* is not annotated, or wrongly.
        options: those of ``StepContext.map``, ``fresh``, ``labels`` and ``show`` of ``session``,
            and those of ``Durably``. ``max_workers`` is how many threads execute items, and
            ``timeout`` is for each item.

    Raises:
        ItemsFailedError: items have failed; all others were executed and stored before that. Fix
            the cause and call it again.
        ConflictError: it is being executed already, by this process or another one.
        ValidationError: an argument is not what it must be, or two items have one key.
        TypeError: there is no such option.
        Exception: what *items* or ``key`` have raised, after what was in progress.

    It also raises the errors of ``Durably``.

    .. versionadded:: 0.2.0
    """
    called, of_map, of_session = _checked("map", name, fn, items, returns, options)
    with _open(called, db, of_session) as step:
        return step.map(called, fn, items, returns=returns, **of_map)


def imap(
    fn: Callable[[Item], object],
    items: Iterable[Item],
    *,
    db: str | os.PathLike[str] | None = "durably.db",
    name: str | None = None,
    ordered: bool = False,
    returns: Any = None,
    **options: Unpack[MapOptions[Item]],
) -> Generator[ItemRecord, None, None]:
    """Return an iterator over the items' records, with their results, as they end.

    It is ``map`` without a list, with the same sessions: what the one has stored, the other finds.
    The session is opened when it is first iterated over, and the items are executed while it is.
    Those that are stored already come first, as far as *items* is a list; failed ones are among the
    records. At the end it raises as ``map`` does. Left behind or closed before, it stops the loop
    as if interrupted: the session is left pending, with what is stored.

    Args:
        ordered: whether the records come in the order of the items.

    The other arguments, and what it raises, are those of ``map``. Wrong arguments raise
    ``ValidationError`` at once.

    .. versionadded:: 0.2.0
    """
    called, of_map, of_session = _checked("imap", name, fn, items, returns, options)
    if not isinstance(ordered, bool):
        raise ValidationError(
            f"durably.imap: ordered must be True or False, not {short_repr(ordered)}"
        )

    def records() -> Generator[ItemRecord, None, None]:
        with (
            _open(called, db, of_session) as step,
            closing(
                step.imap(called, fn, items, ordered=ordered, returns=returns, **of_map)
            ) as found,
        ):
            yield from found

    return records()


def _open(called: str, db: str | os.PathLike[str] | None, given: dict[str, Any]) -> Session:
    """Open the session of a map, with options of the session and of its engine."""
    of_session = {name: given.pop(name) for name in _OF_THE_SESSION & given.keys()}
    options: Any = given
    with deferred():  # imap opens it where nothing else defers signals
        return open_session(
            called, db, key=called, is_map=True, engine_options=options, **of_session
        )


def _checked(
    call: str,
    name: str | None,
    fn: object,
    items: object,
    returns: object,
    options: Mapping[str, Any],
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the name, the options of the map, and those of its session and engine.

    They are checked before the file is opened, so that a wrong option leaves no trace.
    """
    check_option_names(call, options, MapOptions.__annotations__)
    of_map = {option: options[option] for option in options.keys() & _OF_THE_MAP}
    others = {option: options[option] for option in options.keys() - _OF_THE_MAP}
    called = _name_of(fn, call) if name is None else name
    codec = Codec(others.get("converter"), codecs=others.get("codecs", ()))
    checked(f"durably.{call}", called, fn, items, codec, returns=returns, **of_map)
    return called, of_map, others


def _name_of(fn: object, call: str) -> str:
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str) and not name.endswith("<lambda>"):
        return name
    if not callable(fn):
        return "fn"  # to be rejected
    what = "a lambda" if isinstance(name, str) else f"a {type_name(fn)}"
    raise ValidationError(
        f"durably.{call}: {what} has no name by which its results are found again; "
        'pass name=, such as name="labels"'
    )
