"""durably works from a zip file: a zipapp, or an importer that has no folder to show."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipapp
import zipfile
from pathlib import Path

from children import PROGRAMS

import durably
from durably.store.sqlite.sql import schema

# apsw is compiled and stays outside: no zip file can hold it.
PURE = ("attr", "attrs", "cattr", "cattrs", "durably", "typing_extensions")


def test_a_zipapp_makes_migrates_and_checks_a_database(tmp_path: Path) -> None:
    """A zipapp of the package and what it needs makes a database, executes runs and checks it."""
    app = tmp_path / "app.pyz"
    with app.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.write(PROGRAMS / "zipped.py", "__main__.py")
        for name in PURE:
            _put(archive, name)
    assert zipapp.get_interpreter(app) is None
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "apsw").symlink_to(Path(str(importlib.import_module("apsw").__file__)).parent)

    done = subprocess.run(
        [sys.executable, "-S", app, tmp_path / "x.db"],
        env={**os.environ, "PYTHONPATH": str(outside)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result, where = done.stdout.splitlines()
    assert result == "[0, 1, 2] []"
    assert where.startswith(str(app))


def _put(archive: zipfile.ZipFile, name: str) -> None:
    """Add the package or module of that name, as it is installed."""
    file = Path(str(importlib.import_module(name).__file__))
    if file.name != "__init__.py":
        archive.write(file, file.name)
        return
    for each in sorted(file.parent.rglob("*")):
        if each.suffix in {".json", ".py", ".sql", ".typed"}:
            archive.write(each, Path(name) / each.relative_to(file.parent))


def test_every_script_is_known() -> None:
    """The scripts are those that lie in the package's folder, in the order of their numbers."""
    folder = Path(durably.__file__).parent / "store" / "sqlite" / "sql" / "migrations"
    scripts = sorted(folder.glob("*.sql"))
    assert [*schema.migrations()] == [each.read_text(encoding="utf-8") for each in scripts]
    assert [each.name[:4] for each in scripts] == [f"{n + 1:04}" for n in range(len(scripts))]
