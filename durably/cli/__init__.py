"""The command ``durably``: what is in a file, and what to do with it, from a shell.

Each verb is a module of its own, which is imported when it is called. What all have in common is in
``shell``; the table of the verbs is in ``commands``.
"""

from __future__ import annotations

import sys

_PACKAGES = frozenset({"click", "rich"})


def main() -> None:
    """Execute the command line of this process, and exit with its status."""
    try:
        from durably.cli.commands import durably  # noqa: PLC0415 - optional dependency
    except ModuleNotFoundError as exc:
        if exc.name not in _PACKAGES:
            raise
        sys.stderr.write(
            f"durably: the command line needs {exc.name}: pip install 'durably[cli]'\n"
        )
        sys.exit(2)
    durably()
