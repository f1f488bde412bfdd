"""One measurement: a program started afresh in an empty folder, and its rows counted afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from attrs import field, frozen

from benchmarks.environments import ROOT, Environment
from benchmarks.systems.child import ANSWER, MARKS, NO_SUCH_DESCRIPTOR, SPAWNED

TIMEOUT_S = 900
KILLED = {0, -9}
_SYNC = re.compile(r"\b(?:fsync|fdatasync|sync_file_range|msync)\((\d+)")


class FailedError(Exception):
    """A measurement came to nothing; the message says why."""


@frozen
class System:
    """A system that is measured.

    Args:
        program: the module of ``benchmarks.systems``, or the file for Node.
        count_steps, count_runs: how its finished work is counted in its database.
    """

    name: str
    program: str
    database: str
    count_steps: str | None
    count_runs: str | None


@frozen
class Case:
    """One row of a table: what a system is to do.

    Args:
        row: how it is called in the table.
        prepare: a workload that is done in the same folder before, unmeasured.
        steps, runs: how many of each must be in the database afterwards.
        code: a program text to execute instead of a workload.
    """

    row: str
    system: System
    workload: str = ""
    arguments: dict[str, Any] = field(factory=dict)
    prepare: dict[str, Any] | None = None
    steps: int | None = None
    runs: int | None = None
    code: str | None = None


@contextmanager
def empty_folder(parent: Path) -> Iterator[Path]:
    """A folder for one measurement; gone afterwards, and the disk quiet before."""
    with tempfile.TemporaryDirectory(dir=parent) as inner:
        os.sync()
        yield Path(inner)
    os.sync()


def measure(case: Case, environment: Environment, folder: Path) -> dict[str, Any]:
    """The outcome of *case*.

    Raises:
        FailedError: it did not do its work.
    """
    with empty_folder(folder) as inner:
        if case.prepare is not None:
            command = environment.command(case.system.program, "prepare", json.dumps(case.prepare))
            _execute(command, inner, {}, {0, -9})
            os.sync()
        outcome = _answer(_execute(_command(case, environment), inner, {}, {0}))
        _check_rows(case, inner)
    return outcome


def count_syncs(case: Case, environment: Environment, folder: Path) -> tuple[int, dict[str, Any]]:
    """How many syncs *case* asked the kernel for between its marks, and its outcome."""
    with empty_folder(folder) as inner:
        log = inner / "syncs.log"
        strace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,msync"]
        seccomp = ["--seccomp-bpf"] if _has_seccomp() else []
        command = [*strace, *seccomp, "-o", str(log), *_command(case, environment)]
        outcome = _answer(_execute(command, inner, {MARKS: "1"}, {0}))
        _check_rows(case, inner)
        calls = [int(found[1]) for line in log.open() if (found := _SYNC.search(line))]
    marks = [place for place, file in enumerate(calls) if file == NO_SUCH_DESCRIPTOR]
    if len(marks) != 2:
        raise FailedError(f"{len(marks)} marks in the log of strace, not 2")
    return marks[1] - marks[0] - 1, outcome


def has_strace() -> bool:
    """Whether syncs can be counted here: strace exists and may trace."""
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-f", "-o", os.devnull, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _has_seccomp() -> bool:
    command = ["strace", "-f", "--seccomp-bpf", "-e", "trace=fsync", "-o", os.devnull, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _command(case: Case, environment: Environment) -> list[str]:
    if case.code is not None:
        return [environment.executable, "-c", case.code]
    return environment.command(case.system.program, case.workload, json.dumps(case.arguments))


def _execute(command: list[str], folder: Path, more: dict[str, str], statuses: set[int]) -> str:
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "",
        **more,
        SPAWNED: str(time.monotonic_ns()),
    }
    with (folder / "output.txt").open("w+") as output:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise FailedError(f"not done in {TIMEOUT_S} s") from exc
        output.seek(0)
        text = output.read()
    if done.returncode not in statuses:
        last = "\n".join(text.strip().splitlines()[-8:])
        raise FailedError(f"ended with {done.returncode}: {last}")
    return text


def _answer(output: str) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        if line.startswith(ANSWER):
            answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return answer
    raise FailedError(f"no answer in its output: {output[-400:]}")


def _check_rows(case: Case, folder: Path) -> None:
    """Count what is in the database: work that is not stored was not done."""
    wanted = ((case.steps, case.system.count_steps), (case.runs, case.system.count_runs))
    for number, sql in wanted:
        if number is None:
            continue
        assert sql is not None
        db = apsw.Connection(str(folder / case.system.database))
        stored = db.execute(sql).get
        db.close()
        if stored != number:
            raise FailedError(f"{stored} rows are stored, {number} were to be: {sql}")
