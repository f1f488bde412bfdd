"""Steps that are used inside the function of another step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from durably.execution.step_log import current_item, current_step

if TYPE_CHECKING:
    from durably._platform.interactive import Cell

# The outer step, and the key of the item if it is inside a map.
_Scope = tuple[str, str | int | None]


class NestedSteps:
    """The steps that were used inside another step, in its thread.

    A step that failed may be called again, by a ``Retry`` or by the job, and its function then uses
    the same names again. Inside that step, and only there, this does not count as a second use.
    Each name is used by one thread at a time.
    """

    # What to do about a name that is used twice.
    advice = 'give each step a name of its own, such as f"batch-{i}"'

    def __init__(self) -> None:
        self._inside: dict[_Scope, list[str]] = {}
        # Whose chain of the steps inside begins again with each call.
        self.begin_again: Callable[[], None] | None = None
        # Completed inside a call that failed: the outer step in which a name may be used again.
        self._retried: dict[str, _Scope] = {}

    def cell(self) -> Cell | None:
        """Return the cell of a notebook that is executed, if names may be used again in one."""
        return None

    def note(self, name: str) -> None:
        """Note that the calling thread has used the step."""
        outer = current_step.get()
        if outer is not None:
            self._inside.setdefault((outer, current_item.get()), []).append(name)

    def outer_failed(self, outer: str) -> None:
        """Note that a call of the function of *outer* has failed."""
        scope = outer, current_item.get()
        if self.begin_again is not None:
            self.begin_again()
        for name in self._inside.pop(scope, ()):
            self._retried[name] = scope

    def outer_completed(self, outer: str) -> None:
        """Forget the steps inside a step that is never called again."""
        if self._inside:
            self._inside.pop((outer, current_item.get()), None)

    def is_retried(self, name: str) -> bool:
        """Return whether this use repeats one inside an earlier call of the same outer step, once.

        A name that is used twice within one call still counts as used twice.
        """
        outer = current_step.get()
        if outer is None or self._retried.get(name) != (outer, current_item.get()):
            return False
        del self._retried[name]
        return True
