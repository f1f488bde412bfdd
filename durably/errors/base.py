"""What all errors of durably have in common."""

from __future__ import annotations

from durably._platform.unhandled import install_hooks, rendered


class DurablyError(Exception):
    """The base of every error that durably raises to its callers.

    Where nothing handles it, what is printed shows the frames of your code and none of durably's.

    .. versionadded:: 0.1.0
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        install_hooks()

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows."""
        return rendered(self)
