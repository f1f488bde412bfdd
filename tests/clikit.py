"""Run the command line in this process, as a terminal or a pipe would see it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from children import ENVIRONMENT
from click.testing import CliRunner, Result

from durably.cli.commands import durably

Command = Callable[..., Result]


def command(path: Path | None, *args: str, stdin: str | None = None, **env: str) -> Result:
    """Execute a command line on the database at *path*; anything it raises is the test's."""
    db = [] if path is None else ["--db", str(path)]
    last = logging.lastResort
    try:
        return CliRunner(env=env).invoke(
            durably, [*args[:1], *db, *args[1:]], input=stdin, catch_exceptions=False
        )
    finally:
        logging.lastResort = last


def printed(path: Path | None, *args: str, status: int = 0) -> str:
    """What a command prints that ends with *status* and says nothing on stderr."""
    result = command(path, *args)
    assert (result.exit_code, result.stderr) == (status, "")
    return result.stdout


def refused(path: Path | None, *args: str, status: int = 2) -> str:
    """The one sentence of a command that ends with *status* and prints nothing."""
    result = command(path, *args)
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr.startswith("durably: ")
    return result.stderr.removeprefix("durably: ").removesuffix("\n")


def objects(path: Path, *args: str) -> list[dict[str, Any]]:
    """The objects that a command prints with ``--json``."""
    return [json.loads(line) for line in printed(path, *args, "--json").splitlines()]


@contextmanager
def process(*args: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``python -m durably``, as a shell or cron does; kill it at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "durably", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **env},
    ) as child:
        try:
            yield child
        finally:
            child.kill()
