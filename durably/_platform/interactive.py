"""Read from the interpreter whether a person is typing, and which cell of a notebook is executed.

IPython and its kernels are never imported here: where they are in use, ``sys.modules`` has them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell of IPython or Jupyter, and one execution of it. Both compare by equality alone."""

    # The id that the notebook gave the cell, so that an edited cell is the same; else its source.
    cell: str
    # One more input or message of the front end is another execution, also of the same cell.
    execution: str


def is_interactive() -> bool:
    """Return whether this process is an interactive session: a REPL, IPython or a Jupyter kernel.

    A script that is executed with ``python -i`` is one too: it ends at a prompt.
    """
    return "ps1" in vars(sys) or bool(sys.flags.interactive) or is_ipython()


def is_ipython() -> bool:
    """Return whether this process has a shell of IPython: a terminal, a kernel, an embedded one."""
    return ipython_shell() is not None


def again() -> str:
    """Return what a user does to execute the same once more, as part of a sentence."""
    return "start it again" if executing_cell() is None else "run this cell again"


def executing_cell() -> Cell | None:
    """Return the cell that is being executed and which execution of it this is.

    Return ``None`` outside of IPython and before its first cell, and while a kernel does something
    else for its front end, such as the callback of a widget. Between two cells a thread that one
    of them has started reads that cell, or ``None``.
    """
    shell = ipython_shell()
    if shell is None:
        return None
    parent = _message_of(shell)
    if parent is None:
        return _last_input(shell)
    header = _part(parent, "header")
    if header.get("msg_type") != "execute_request":
        return None
    given = _part(parent, "metadata").get("cellId")
    return Cell(
        f"id {given}" if given else f"source {_part(parent, 'content').get('code')}",
        f"message {header.get('msg_id')}",
    )


def cell_label(filename: str) -> str | None:
    """Return how IPython names the cell that was compiled under a file name: ``Cell In[2]``.

    Return ``None`` for a file that is not a cell's.
    """
    shell = ipython_shell()
    name_of = None if shell is None else getattr(shell.compile, "format_code_name", None)
    label = None if name_of is None else name_of(filename)
    return None if label is None else " ".join(label)


def ipython_shell() -> Any:
    """Return the shell of IPython, ``None`` if there is none."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return None  # each trigger asks
    get_ipython = getattr(ipython, "get_ipython", None)
    return None if get_ipython is None else get_ipython()


def kernel() -> Any:
    """Return the kernel that this process is, of a notebook for one, ``None`` if it is none."""
    return getattr(ipython_shell(), "kernel", None)


def _message_of(shell: Any) -> Mapping[str, Any] | None:
    """Return the message of a front end that a kernel answers now, ``None`` in a terminal."""
    get_parent = getattr(getattr(shell, "kernel", None), "get_parent", None)
    message = None if get_parent is None else get_parent()
    return message if isinstance(message, Mapping) and message else None


def _last_input(shell: Any) -> Cell | None:
    """Return the last input of a terminal as a cell: IPython stores it before it executes it."""
    inputs = getattr(getattr(shell, "history_manager", None), "input_hist_raw", None)
    # The first of them is empty, so that the numbers of the prompts are indices.
    if not inputs or len(inputs) < 2:
        return None
    return Cell(f"source {inputs[-1]}", f"input {len(inputs) - 1}")


def _part(message: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = message.get(part)
    return found if isinstance(found, Mapping) else {}
