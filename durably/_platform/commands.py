"""Write commands of the command line, for a person to type."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from durably._platform.safe_repr import on_one_line

# The database file if no path is given, and the environment variable that may name another one.
DEFAULT_PATH: Final = "durably.db"
PATH_VARIABLE: Final = "DURABLY_DB"


def command(words: str, path: str) -> str:
    """Return a command on the database file at *path*, such as ``durably retry 01M --db a.db``.

    Args:
        words: the verb and its arguments, as a shell reads them.
    """
    return f"durably {words}{file_option(path)}"


def file_option(path: str) -> str:
    """Return what names a database file to a command, empty if that finds it by itself.

    Args:
        path: the real path of the file.
    """
    with suppress(OSError):  # the folder of the process is gone
        if os.path.realpath(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH) == path:
            return ""
    return f" --db {quoted(path)}"


def quoted(text: str) -> str:
    """Return a text as one argument of a command."""
    from shlex import quote  # noqa: PLC0415 - where first needed

    return quote(on_one_line(text))
