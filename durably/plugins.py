"""Plugins: additions to an engine that need nothing but its public face.

A plugin has a ``name`` and ``install(app)``, and is added with ``app.use(plugin)``.
"""

from __future__ import annotations

from typing import Final

from durably.engine import Durably


class LogPersistence:
    """Stores the lines of ``step.log`` in the database, for ``app.get_logs`` and other processes.

    Lines are buffered and stored a few times a second, and before their run ends.

    .. versionadded:: 0.1.0
    """

    name: Final = "log-persistence"

    def install(self, app: Durably) -> None:
        """Store every line that is written from now on.

        .. versionadded:: 0.1.0
        """
        app.on("log:write", app._persist_log)  # noqa: SLF001 - durably's own plugin
