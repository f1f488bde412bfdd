"""The engines that are open in this process, and how a new one takes the place of another.

A cell of a notebook is executed again and again, and each time it would leave one more engine open
on the file, with its threads, its runs and the code of an earlier day.
"""

from __future__ import annotations

import logging
import weakref
from typing import Final

from durably._platform.fork_hooks import no_fork
from durably.errors import DatabaseLostError
from durably.worker.shutdown import Shutdown

logger = logging.getLogger("durably")

# Those whose objects are in use, by a caller or by their own threads. Guarded by ``no_fork``, whose
# lock a forked child gets anew; the engines of its parent are not open there.
_engines: Final[weakref.WeakSet[Shutdown]] = weakref.WeakSet()


# What a line about an engine that was replaced says last.
_KEEP: Final = "open it with replace=False to keep both"
_LOST: Final = "the file of the one before was moved, deleted or replaced"


def _open_on(path: str, file: object) -> list[Shutdown]:
    return [each for each in _engines if each.is_open and each.is_on(path, file)]


class Opening:
    """The opening of one engine on a file.

    Args:
        replaces: whether it takes the place of engines that this process has open on the file.
        is_beside: whether it is opened for one call or a session, which is beside others on the
            file and replaces only those that have lost it.
    """

    def __init__(self, *, replaces: bool, is_beside: bool) -> None:
        self._replaces = replaces
        self._is_beside = is_beside

    def make_way(self, path: str, file: object) -> None:
        """Close the engines that the new one replaces, before the file is opened.

        Blocks until their runs have stopped.

        Args:
            path: the real path of the database.
            file: what identifies the file there, ``None`` if there is none.

        Raises:
            ConflictError: one of the engines executes the code that makes this call; none is
                closed.
            DatabaseLostError: an engine that is kept has lost the file of that path.
        """
        with no_fork():
            engines = _open_on(path, file)
        if self._replaces:
            self._replace(engines)
            return
        for engine in engines:
            if engine.path == path:
                _refuse_lost(engine)

    def enter(self, engine: Shutdown) -> None:
        """Make the new engine known; it replaces those that were opened at the same time."""
        with no_fork():
            others = _open_on(engine.path, engine.file)
            _engines.add(engine)
        if self._replaces:
            self._replace(others)

    def _replace(self, engines: list[Shutdown]) -> None:
        replaced = [each for each in engines if self._is_replaced(each)]
        for engine in replaced:
            engine.refuse_inside()
        for engine in replaced:
            if engine.is_open:
                advice = _LOST if _loss_of(engine) is not None else _KEEP
                engine.give_way()
                logger.warning(
                    "The engine that this process had open on %r was closed, and the new one takes "
                    "its place; %s",
                    engine.path,
                    advice,
                )

    def _is_replaced(self, engine: Shutdown) -> bool:
        return not (self._is_beside or engine.is_beside) or _loss_of(engine) is not None


def _refuse_lost(engine: Shutdown) -> None:
    """Raise if the engine has lost its file: a new one at the path would not be the same."""
    loss = _loss_of(engine)
    if loss is not None:
        raise DatabaseLostError(
            f"{engine!r} is still open in this process, and its file is lost: {loss}. Close that "
            "engine before you open the file again, or open it with replace=True"
        ) from loss


def _loss_of(engine: Shutdown) -> DatabaseLostError | None:
    """Return the error that says how an open engine has lost its file, ``None`` if it has not."""
    try:
        engine.check_file()
    except DatabaseLostError as exc:
        # Its close, in another thread, may have just removed what belonged to the file.
        return exc if engine.is_open else None
    return None
