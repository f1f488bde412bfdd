"""The sessions that are open in this process: which there are, and what another one does then."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from durably._platform.interactive import is_interactive
from durably.client import messages
from durably.client.patience import Patience
from durably.errors import ConflictError

if TYPE_CHECKING:
    from durably.store.rows import Beginning


class OpenHere(NamedTuple):
    """A session that is open in the process with that id: this one, or one that has forked it."""

    path: str
    name: str
    key: str | None
    pid: int
    hand_over: Callable[[], None]


# By the id of the run.
open_here: Final[dict[str, OpenHere]] = {}


def hand_over(wanted: OpenHere) -> None:
    """Make the object that has the session open in this process leave it, if there is one."""
    for each in tuple(open_here.values()):
        if each[:4] == wanted[:4]:
            each.hand_over()


def patience_with(taken: Beginning, patience: Patience, *, is_map: bool) -> float:
    """Return for how many seconds to wait for a session that is open.

    Args:
        is_map: whether it is that of ``durably.map``, which gives nobody an object.

    Raises:
        ConflictError: it is not to be waited for.
    """
    name = taken.row.job_name
    here = open_here.get(taken.row.id)
    if here is not None and here.pid == os.getpid():
        if is_interactive():
            here.hand_over()
            return 0.0
        if is_map:
            raise ConflictError(
                f"the loop {name!r} is being executed by this process already; call it again when "
                "that call has ended"
            )
        raise ConflictError(
            f"session {name!r} is open in this process already; use the object that has it, or "
            "close it first"
        )
    if patience.is_over():
        if is_map:
            raise ConflictError(
                f"the loop {name!r} {messages.executed(taken.row, taken.executor)}; call it again "
                "when that has ended"
            )
        raise ConflictError(
            f"session {messages.where(taken)}; close it there, or wait for that with timeout="
        )
    left_s = patience.left()
    return math.inf if left_s is None else left_s
