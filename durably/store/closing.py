"""What a call of an engine that is closed is answered."""

from __future__ import annotations

from durably.errors import EngineClosedError


class Closing:
    """The end of one engine, closed or replaced, for messages. Usable from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.is_replaced = False  # by an engine that this process opened later

    def error(self) -> EngineClosedError:
        """Return the error for a call of the engine."""
        if self.is_replaced:
            return EngineClosedError(
                f"this engine on {self._path!r} was replaced by one that this process has opened "
                "since; use that one and its handles"
            )
        return EngineClosedError(f"this engine on {self._path!r} is closed; open a new one")
