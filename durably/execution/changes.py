"""The options that say what happens to results of other code."""

from __future__ import annotations

from typing import Any

from durably.errors import ValidationError
from durably.settings import OnChange, check_on_change


def checked_change(
    what: str, on_change: Any, depends_on: Any
) -> tuple[OnChange | None, str | None]:
    """Return what happens to a result of other code, and what it depends on, as text.

    Args:
        what: begins messages.

    Raises:
        ValidationError: one of them is not what it must be.
    """
    check_on_change(on_change, f"{what}: on_change")
    if depends_on is None:
        return on_change, None
    from durably.execution.inputs import text_of_dependence  # noqa: PLC0415 - where first needed

    if on_change not in (None, "redo"):
        raise ValidationError(
            f'{what}: depends_on has no effect with on_change="{on_change}"; leave one of them out'
        )
    return "redo", text_of_dependence(depends_on, f"{what}: depends_on")
