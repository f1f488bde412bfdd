"""The engines that are open in this process, and how a new one takes the place of another.

A cell of a notebook is executed again and again, and each time it would leave one more engine open
on the file, with its threads, its runs and the code of an earlier day.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from typing import Final

from durably._platform.fork_hooks import no_fork
from durably.errors import DatabaseLostError
from durably.worker.shutdown import Shutdown

log = logging.getLogger("durably")

# Those whose objects are in use, by a caller or by their own threads. Guarded by ``no_fork``, whose
# lock a forked child gets anew; the engines of its parent are not open there.
_engines: Final[weakref.WeakSet[Shutdown]] = weakref.WeakSet()


def make_way(
    replaces: bool,  # noqa: FBT001 - bound by callers
    is_of_session: bool,  # noqa: FBT001
    path: str,
    file: object,
) -> None:
    """Prepare for a new engine on a file, before that is opened.

    Blocks until the runs of an engine that is replaced have stopped.

    Args:
        replaces: whether engines that this process has open on it are stopped and closed.
        is_of_session: whether it is that of a session, which is beside others on the file.
        path: the real path of the database.
        file: what identifies the file there, ``None`` if there is none.

    Raises:
        ConflictError: one of those executes the code that makes this call.
        DatabaseLostError: without *replaces*, one of those has lost its file.
    """
    with no_fork():
        engines = [each for each in _engines if each.is_open and each.is_on(path, file)]
    if replaces:
        _replace(each for each in engines if _is_replaced(each, is_of_session=is_of_session))
        return
    for engine in engines:
        if engine.path == path:
            _refuse_lost(engine)


def enter(engine: Shutdown, *, replaces: bool) -> None:
    """Make an engine known that is open; it replaces those that were opened at the same time."""
    with no_fork():
        others = [
            each for each in _engines if each.is_open and each.is_on(engine.path, engine.file)
        ]
        _engines.add(engine)
    if replaces:
        is_of_session = engine.session is not None
        _replace(each for each in others if _is_replaced(each, is_of_session=is_of_session))


def _is_replaced(engine: Shutdown, *, is_of_session: bool) -> bool:
    """Return whether a new engine on the file takes the place of one that is open."""
    if not is_of_session and engine.session is None:
        return True
    # Sessions and engines are beside each other, unless one has lost the file.
    try:
        engine.check_file()
    except DatabaseLostError:
        return True
    return False


def _replace(engines: Iterable[Shutdown]) -> None:
    for engine in engines:
        engine.give_way()
        log.warning(
            "The engine that this process had open on %r was closed, and the new one takes its "
            "place; open it with replace=False to keep both",
            engine.path,
        )


def _refuse_lost(engine: Shutdown) -> None:
    """Raise if the engine has lost its file: a new one at the path would not be the same."""
    try:
        engine.check_file()
    except DatabaseLostError as exc:
        raise DatabaseLostError(
            f"{engine!r} is still open in this process, and its file is lost: {exc}. Close that "
            "engine before you open the file again, or open it with replace=True"
        ) from exc
