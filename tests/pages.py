"""Pages of the documentation, read and executed as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

from attrs import frozen
from children import TESTS

README: Final = TESTS.parent / "README.md"
DOCS: Final = TESTS.parent / "docs"
_BLOCK: Final = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NAMED: Final = re.compile(r"# (\w+\.py)\n")
_PROMPT: Final = re.compile(r"^\$ ", re.MULTILINE)


@frozen
class Block:
    """A block of a page: its language, and its text."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is, if its first line names one."""
        named = _NAMED.match(self.text)
        return named and named[1]


def sections(page: Path) -> dict[str, list[Block]]:
    """The blocks under each heading of the second level, and under "" those above the first."""
    text = page.read_text(encoding="utf-8")
    parts = ["", *re.split(r"^## (.*)\n", text, flags=re.MULTILINE)]
    return {
        title: [Block(found[2], textwrap.dedent(found[3])) for found in _BLOCK.finditer(text)]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write each block that names its file into *folder*."""
    for block in blocks:
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")


def shows(expected: str, output: str) -> bool:
    """Return whether *output* is what a page shows.

    ``…V9AF`` and ``durably retry P20ZDTSV`` stand for the end of any run's id, and any other ``…``
    for any text in its line.
    """
    pattern = re.sub("…[0-9A-Z]{4,8}", "…[0-9A-Z]{4,8}", re.escape(expected))
    pattern = re.sub(r"(durably\\ retry\\ )[0-9A-Z]{8}", r"\1[0-9A-Z]{8}", pattern)
    return re.fullmatch(re.sub(r"…(?!\[)", "[^\n]*", pattern), output) is not None


def execute_transcript(text: str, folder: Path) -> None:
    """Execute the commands after ``$`` in *folder*; what they print must be what follows them."""
    _, *entries = _PROMPT.split(text)
    commands = [entry.partition("\n")[0] for entry in entries]
    printed = _execute(commands, folder)
    for entry, output in zip(entries, printed, strict=True):
        command, _, expected = entry.partition("\n")
        assert shows(expected, output), f"$ {command}\n{output}\nis not\n{expected}"


def _execute(commands: list[str], folder: Path) -> list[str]:
    """Execute *commands* in one shell, in which ``python`` is this one; what each has printed."""
    mark = "\x1e"
    script = "status=0\n" + "".join(
        f"printf '{mark}'; (exit $status)\n{command}\nstatus=$?\n" for command in commands
    )
    this_python = folder / "python"
    this_python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    this_python.chmod(0o700)
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        this_python.unlink()
    return done.stdout.split(mark)[1:]
