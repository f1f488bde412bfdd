"""Raise if an engine is opened in a child of ``multiprocessing`` that imports the main module.

A child that is spawned, or comes from a fork server, imports its parent's script to find the
function that it has to call. Without a guard the script would run again there, with an engine of
its own: it would execute the parent's runs, trigger new ones, or wait for what only the parent can
do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from durably.errors import ConflictError

_MAIN_IN_A_CHILD = "__mp_main__"

# Whether the command line imports a user's module now.
_is_loading = False


@contextmanager
def loading() -> Iterator[None]:
    """Import a user's module for its jobs: within the block no engine executes a run."""
    global _is_loading  # noqa: PLW0603 - a fact about the process
    _is_loading = True
    try:
        yield
    finally:
        _is_loading = False


def refuse_unguarded_open() -> None:
    """Raise if the main module opens an engine while a child process imports it.

    Raises:
        ConflictError: it does. A module that it imports may open one, but not start it.
    """
    if _is_importing_main() and _importing_module(sys._getframe(1)) == _MAIN_IN_A_CHILD:  # noqa: SLF001 - no other way
        raise _refusal("opens")


def refuse_unguarded_start() -> None:
    """Raise if an engine would execute runs while a child process imports the main module.

    Raises:
        ConflictError: it would, whatever module makes the call; or the command line imports a
            module for its jobs.
    """
    if _is_importing_main():
        raise _refusal("starts")
    if _is_loading:
        raise ConflictError(
            "it executes runs where it is imported for its jobs. Put what the script does under "
            '`if __name__ == "__main__":`'
        )


def _is_importing_main() -> bool:
    # Not imported here: if no code has imported it, this process is not a child of it.
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(getattr(process.current_process(), "_inheriting", False))


def _importing_module(frame: FrameType | None) -> str | None:
    """Return the name of the module whose import executes *frame*."""
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return None if frame is None else frame.f_globals.get("__name__")


def _refusal(verb: str) -> ConflictError:
    return ConflictError(
        f"the script {verb} an engine while a child process of multiprocessing imports it. Put "
        'what the script does under `if __name__ == "__main__":`, or the child does it as well'
    )
