"""A script in one line: ``durably.run``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, Unpack

from durably.client.run_here import RunOptions
from durably.client.submit import NOT_GIVEN
from durably.engine import Durably
from durably.jobs import Job
from durably.wiring import EngineOptions

P = TypeVar("P")
R = TypeVar("R")

_OF_THE_RUN = frozenset(RunOptions.__annotations__)


class _Options(RunOptions, EngineOptions, total=False):
    """Those of the run and of the engine."""


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
    given: dict[str, Any] = dict(options)
    of_run: dict[str, Any] = {name: given.pop(name) for name in _OF_THE_RUN & given.keys()}
    # An engine that the session has open on the file stays open.
    app = Durably(db, **{"replace": False} | given)
    try:
        done: R | None = app.run(job, payload, **of_run).output
    finally:
        app.close()
    return done  # type: ignore[return-value]  # of a completed run it is an R
