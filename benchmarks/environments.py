"""Where each system runs: an interpreter with its packages, made here when it is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[1]
SYSTEMS = ROOT / "benchmarks" / "systems"

# What was measured is told with the results; these are the versions that the programs are for.
DBOS = ["dbos==3.4.0"]
# DBOS's own SQL needs SQLite 3.42, which not every Python has.
NEWER_SQLITE = ["pysqlite3>=0.6"]
HUEY = ["huey==3.5.4"]
JOBLIB = ["joblib==1.5.2"]
DURA = ["dura==1.3.0"]
NODE = ["@coji/durably@0.15.0", "kysely@0.27", "zod@4", "@libsql/kysely-libsql@0.4.1"]


class MissingError(Exception):
    """A system cannot be measured here; the message says why."""


@frozen
class Environment:
    """How the programs of one system are started."""

    executable: str
    versions: dict[str, str]
    is_node: bool = False
    folder: Path | None = None

    def command(self, program: str, workload: str, arguments: str) -> list[str]:
        """What to execute for one measurement."""
        if self.is_node:
            assert self.folder is not None
            return [self.executable, str(self.folder / program), workload, arguments]
        return [self.executable, "-m", f"benchmarks.systems.{program}", workload, arguments]


def own() -> Environment:
    """This interpreter, with durably as it is in this checkout."""
    names = ["apsw", "attrs", "cattrs"]
    return Environment(sys.executable, _versions_of(sys.executable, names))


def own_with(*packages: str) -> Environment:
    """This interpreter, if these packages are installed in it."""
    try:
        return Environment(sys.executable, _versions_of(sys.executable, list(packages)))
    except subprocess.CalledProcessError:
        named = " and ".join(packages)
        raise MissingError(f"it needs {named} beside durably, as the extra test has") from None


def dbos(folder: Path) -> Environment:
    """DBOS, on this Python."""
    script = "import sqlite3; print(sqlite3.sqlite_version_info < (3, 42))"
    is_old = _output([sys.executable, "-c", script]) == "True"
    return _python(folder / "dbos", sys.executable, DBOS + (NEWER_SQLITE if is_old else []))


def huey(folder: Path) -> Environment:
    """huey, on this Python."""
    return _python(folder / "huey", sys.executable, HUEY)


def joblib(folder: Path) -> Environment:
    """joblib, on this Python."""
    return _python(folder / "joblib", sys.executable, JOBLIB)


def dura(folder: Path) -> Environment:
    """dura, on a Python that is new enough for it."""
    python = _newer_python((3, 13))
    if python is None:
        raise MissingError("dura needs Python 3.13 or newer, and there is none here")
    return _python(folder / "dura", python, DURA)


def coji(folder: Path) -> Environment:
    """@coji/durably, where there are Node and npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("@coji/durably needs Node and npm, and they are not here")
    inside = folder / "coji"
    if not _is_made(inside, NODE):
        inside.mkdir(parents=True, exist_ok=True)
        (inside / "package.json").write_text('{"private": true, "type": "module"}\n')
        # Without scripts: better-sqlite3, which is not used, would be compiled.
        _make([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *NODE], inside)
        _mark_made(inside, NODE)
    shutil.copy(SYSTEMS / "coji_durably.mjs", inside)
    versions = {"node": _output([node, "--version"])}
    for name in ("@coji/durably", "@libsql/kysely-libsql", "@libsql/client", "kysely"):
        package = json.loads((inside / "node_modules" / name / "package.json").read_text())
        versions[name] = package["version"]
    return Environment(node, versions, is_node=True, folder=inside)


def _python(folder: Path, python: str, packages: list[str]) -> Environment:
    executable = folder / "bin" / "python"
    what = [python, *packages]
    if not _is_made(folder, what):
        shutil.rmtree(folder, ignore_errors=True)
        _make([python, "-m", "venv", str(folder)], None)
        _make([str(executable), "-m", "pip", "install", "-q", *packages], None)
        _mark_made(folder, what)
    names = [package.partition("==")[0].partition(">")[0] for package in packages]
    return Environment(str(executable), _versions_of(str(executable), names))


def _is_made(folder: Path, what: list[str]) -> bool:
    made = folder / "made-of.json"
    return made.is_file() and json.loads(made.read_text()) == what


def _mark_made(folder: Path, what: list[str]) -> None:
    (folder / "made-of.json").write_text(json.dumps(what))


def _make(command: list[str], folder: Path | None) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["no output"]
        raise MissingError(f"{Path(command[0]).name} could not make its environment: {last[0]}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions_of(executable: str, packages: list[str]) -> dict[str, str]:
    script = (
        "import importlib.metadata as m, json, platform, sqlite3, sys\n"
        "found = {name: m.version(name) for name in sys.argv[1:]}\n"
        "found['python'] = platform.python_version()\n"
        "print(json.dumps(found))"
    )
    versions: dict[str, str] = json.loads(_output([executable, "-c", script, *packages]))
    return versions


def _newer_python(oldest: tuple[int, int]) -> str | None:
    """The path of an interpreter that is new enough: this one, one on the path, one of pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", str(Path("~/.pyenv").expanduser()))
    candidates = [sys.executable]
    for minor in range(oldest[1], oldest[1] + 5):
        candidates.append(f"python3.{minor}")
        found = Path(pyenv).glob(f"versions/3.{minor}.*/bin/python3.{minor}")
        candidates += sorted(map(str, found))
    script = f"import sys; assert sys.version_info >= {oldest}; print(sys.executable)"
    for candidate in candidates:
        try:
            # A pyenv shim for a version that is not active exists, and exits non-zero.
            return _output([candidate, "-c", script])
        except (OSError, subprocess.CalledProcessError):
            continue
    return None
