"""Plugins: objects with a ``name`` and ``install(app)``, for ``app.use(plugin)``."""

from __future__ import annotations

from typing import Final

from durably.entry.engine import Durably


class LogPersistence:
    """Store the lines of ``step.log`` in the database, as ``Durably(persist_logs=True)`` does.

    .. versionadded:: 0.1.0
    """

    name: Final = "log-persistence"

    def install(self, app: Durably) -> None:
        """Store every line that is written from now on.

        .. versionadded:: 0.1.0
        """
        app._flusher.persist_logs()  # noqa: SLF001 - the option of the engine
