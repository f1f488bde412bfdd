"""Pages of the documentation, read and executed as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from contextlib import chdir
from pathlib import Path
from typing import Final

from attrs import frozen
from children import DEADLINE_S, TESTS
from clikit import command as in_this_process

README: Final = TESTS.parent / "README.md"
DOCS: Final = TESTS.parent / "docs"
_BLOCK: Final = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NAMED: Final = re.compile(r"# (\w+\.py)\n")
_PROMPT: Final = re.compile(r"^\$ ", re.MULTILINE)
_KILLED: Final = "Killed\n"
_ASSIGNMENT: Final = re.compile(r"(\w+)=(.*)")
_PAUSE: Final = re.compile(r"\btime\.sleep\(([\d.]+)\)")
# What is another one each time, and what stands for it.
_VARYING: Final = {
    r"\((\d{4}-\d\d-\d\d )?\d\d:\d\d\)": "(<instant>)",
    r"…[0-9A-Z]{4,8}\b": "<id>",
    r"\b01[0-9A-Z]{24}\b": "<id>",
    r"\b[0-9A-HJKMNP-TV-Z]{8}\b": "<id>",
    r"\b\d\d-\d\d \d\d:\d\d(:[\d.]+)?": "<instant>",
    r"\b\d+(\.\d+)? s\b": "<time>",
    r"\b\d+\.\d steps/s\b": "<rate>",
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
            (folder / block.file).write_text(paced(block.text), encoding="utf-8")


def paced(program: str) -> str:
    """Return a program of a page whose slow services take the part ``PACE`` of their time.

    Only one that is killed needs time in which it can be killed.
    """
    return _PAUSE.sub(r"time.sleep(\1 * float(__import__('os').environ.get('PACE', 1)))", program)


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
    status = 0
    for command, expected in entries_of(text):
        status, output = _execute(command, expected, folder, status)
        assert shows(expected, output), f"$ {command}\n{output}\nis not\n{expected}"


def entries_of(transcript: str) -> list[tuple[str, str]]:
    """Return each command after ``$``, and what it prints."""
    _, *entries = _PROMPT.split(transcript)
    return [(command, printed) for command, _, printed in (e.partition("\n") for e in entries)]


def _execute(command: str, expected: str, folder: Path, status: int) -> tuple[int, str]:
    """Execute *command*, in which ``python`` is this one; its exit status and what it has printed.

    Args:
        status: the exit status of the command before, which is ``$?``.
    """
    if (calls := calls_of_durably(command)) is not None:
        return execute_here(calls, folder)
    process = subprocess.Popen(
        ["bash", "-c", f"(exit {status})\n{command}"],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{_programs(folder)}{os.pathsep}{os.environ['PATH']}",
            "PACE": "1" if expected.endswith(_KILLED) else "0.01",
            "PYTHONUNBUFFERED": "1",
        },
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


def _programs(folder: Path) -> Path:
    """Return the folder in which ``python`` and ``durably`` are those that are tested."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    for name, program in (("python", ""), ("durably", "-m durably")):
        path = programs / name
        if not path.exists():
            path.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n', encoding="utf-8"
            )
            path.chmod(0o700)
    return programs


def calls_of_durably(command: str) -> list[tuple[dict[str, str], list[str]]] | None:
    """Return the variables and the arguments of each ``durably`` between ``&&``.

    It is ``None`` for a command for which it takes a shell or another program.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[tuple[dict[str, str], list[str]]] = []
    for part in " ".join(map(shlex.quote, lexer)).split(" '&&' "):
        words = shlex.split(part)
        variables = {}
        while words and (assigned := _ASSIGNMENT.fullmatch(words[0])):
            variables[assigned[1]] = assigned[2]
            del words[0]
        if words[:1] != ["durably"] or any(set(word) <= set("();<>|&") for word in words):
            return None
        calls.append((variables, words[1:]))
    return None if "$" in command else calls


def execute_here(
    calls: list[tuple[dict[str, str], list[str]]], folder: Path, **variables: str
) -> tuple[int, str]:
    """Execute calls of ``durably`` in *folder*, in this process, until one of them fails."""
    status, printed = 0, ""
    path, modules = [*sys.path], {*sys.modules}
    with chdir(folder):
        for more, arguments in calls:
            done = in_this_process(None, *arguments, **variables, **more)
            status, printed = done.exit_code, printed + done.output
            if status != 0:
                break
    sys.path[:] = path
    for name in {*sys.modules} - modules:  # what was imported from there may be changed
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    return status, printed
