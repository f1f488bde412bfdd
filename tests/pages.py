"""Pages of the documentation, read and executed as they are printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

from attrs import frozen
from children import DEADLINE_S, TESTS

README: Final = TESTS.parent / "README.md"
DOCS: Final = TESTS.parent / "docs"
_BLOCK: Final = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NAMED: Final = re.compile(r"# (\w+\.py)\n")
_PROMPT: Final = re.compile(r"^\$ ", re.MULTILINE)
_KILLED: Final = "Killed\n"
# What is another one each time, and what stands for it.
_VARYING: Final = {
    r"…[0-9A-Z]{4,8}\b": "<id>",
    r"\b01[0-9A-Z]{24}\b": "<id>",
    r"\b[0-9A-HJKMNP-TV-Z]{8}\b": "<id>",
    r"\b\d\d-\d\d \d\d:\d\d(:[\d.]+)?": "<instant>",
    r"\b\d+(\.\d+)? s\b": "<time>",
    r"\bprocess \d+": "process <pid>",
    r" +": " ",
}


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


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    return [block for blocks in sections(page).values() for block in blocks]


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


def follow(page: Path, folder: Path) -> None:
    """Do in *folder* what a page says, block after block.

    A program whose first line names its file is written, a ``diff`` changes the file that has the
    lines that it removes, and a ``console`` is a transcript of commands that are executed.
    """
    for block in blocks_of(page):
        match block.language:
            case "python":
                write_files([block], folder)
            case "diff":
                _change(block.text, folder)
            case "console":
                execute_transcript(block.text, folder)


def _change(diff: str, folder: Path) -> None:
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if not line.startswith("+"))
    new = "".join(line[1:] for line in lines if not line.startswith("-"))
    [file] = [each for each in folder.glob("*.py") if old in each.read_text(encoding="utf-8")]
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def shows(expected: str, output: str) -> bool:
    """Return whether *output* is what a page shows.

    ``…V9AF`` and ``P20ZDTSV`` stand for the end of any run's id, ``0.4 s`` for any duration,
    ``11-28 14:11`` for any instant, and any other ``…`` for any text in its line;
    a line that is nothing else stands for any lines.
    """
    lines = [
        "(?s:.*)" if line.strip() == "…" else re.escape(line).replace("…", "[^\n]*")
        for line in _without_what_varies(expected).splitlines(keepends=True)
    ]
    return re.fullmatch("".join(lines), _without_what_varies(output)) is not None


def _without_what_varies(text: str) -> str:
    for varying, mark in _VARYING.items():
        text = re.sub(varying, mark, text)
    return text


def execute_transcript(text: str, folder: Path) -> None:
    """Execute the commands after ``$`` in *folder*; what they print must be what follows them.

    A command that is ``Killed`` is killed once it has printed the lines above that one.
    """
    _, *entries = _PROMPT.split(text)
    status = 0
    for entry in entries:
        command, _, expected = entry.partition("\n")
        status, output = _execute(command, expected, folder, status)
        assert shows(expected, output), f"$ {command}\n{output}\nis not\n{expected}"


def _execute(command: str, expected: str, folder: Path, status: int) -> tuple[int, str]:
    """Execute *command*, in which ``python`` is this one; its exit status and what it has printed.

    Args:
        status: the exit status of the command before, which is ``$?``.
    """
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    for name, program in (("python", ""), ("durably", "-m durably")):
        path = programs / name
        if not path.exists():
            path.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n', encoding="utf-8"
            )
            path.chmod(0o700)
    search = f"{programs}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", f"(exit {status})\n{command}"],
        cwd=folder,
        env={**os.environ, "PATH": search, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        output = ""
        if expected.endswith(_KILLED):
            printed = [process.stdout.readline() for _ in expected.splitlines()[:-1]]
            os.killpg(process.pid, signal.SIGKILL)
            output = "".join([*printed, _KILLED])
        try:
            rest, _ = process.communicate(timeout=2 * DEADLINE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output or rest
