"""The command line in a terminal: what fits its width, in colours, and what changes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from children import PROGRAMS
from clikit import printed, process
from terminals import Program

import durably

Eventually = Callable[[Callable[[], object]], None]
WAITS = f"{PROGRAMS / 'nightly.py'}:waits"


def in_terminal(path: Path, *args: str, columns: int = 100, **environment: str) -> Program:
    """A command on the database at *path*, in a terminal."""
    line = ["durably", *args, "--db", str(path)]
    source = f"import sys\nfrom durably.cli import main\nsys.argv = {line!r}\nmain()\n"
    return Program(source, path.parent, columns=columns, **environment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a failed run whose names and errors are long, wide, and act on terminals."""
    path = tmp_path / "x.db"

    @durably.job("import the table")
    def fails(step: durably.StepContext) -> None:
        raise ValueError(f"cannot read {'漢字' * 50}\x1b[2J{'x' * 200}")

    with durably.Durably(path, jobs=[fails], raise_failed=False) as app:
        app.trigger(fails, idempotency_key="k" * 100)
        app.run_until_idle()
    return path


def test_tables_fit_the_terminal(path: Path) -> None:
    """A run is one line, with its status in colour; nothing that is stored is acted on."""
    with in_terminal(path, "ls", columns=90) as terminal:
        assert terminal.end() == 0
        titles, row = terminal.lines
        assert titles.startswith("RUN       STATUS  JOB")
        assert [row.split()[1], len(row) > 60] == ["failed", True]
        assert b"\x1b[31mfailed" in terminal.raw
        assert b"\x1b[2J" not in terminal.raw
    with in_terminal(path, "show", "k" * 100, columns=60, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert b"\x1b[" not in terminal.raw
        assert any(line.startswith("  error     ValueError: ") for line in terminal.lines)
        cut = [line for line in terminal.lines if "…" in line]
        assert [line.split()[0] for line in cut] == ["key", "error"]
        assert all(len(line) <= 60 for line in cut)


def test_a_run_is_watched(path: Path, tmp_path: Path, eventually: Eventually) -> None:
    """Its live line while another process executes it; then how it has ended, as the status."""
    with process("run", WAITS, tmp_path, "--key", "one", "--db", path) as child:
        eventually((tmp_path / "begun-0").exists)
        with in_terminal(path, "watch", "one") as terminal:
            terminal.wait_for("waits")
            with in_terminal(path, "watch") as all_of_them:
                all_of_them.wait_for("waits")
                (tmp_path / "go").touch()
                assert terminal.end() == 0
                assert "waits one completed" in terminal.lines[-1]
                all_of_them.press("\x03")
                assert all_of_them.end() == 130
        assert child.communicate() == ("", "")
    with in_terminal(path, "watch", "k" * 100) as terminal:
        assert terminal.end() == 1
        assert "failed: ValueError" in "".join(terminal.lines)


def test_a_list_is_shown_anew(path: Path) -> None:
    """At each change, until Ctrl-C."""
    with in_terminal(path, "ls", "--watch") as terminal:
        terminal.wait_for("failed")
        assert printed(path, "retry", "k" * 100)
        terminal.wait_for("pending")
        assert not [line for line in terminal.lines if "failed" in line]
        terminal.press("\x03")
        assert terminal.end() == 130


def test_what_a_person_is_told(path: Path, tmp_path: Path) -> None:
    """It says that a run has completed, also before, and whether there are more runs."""
    (tmp_path / "go").touch()
    args = ("run", WAITS, str(tmp_path), "--key", "one")
    for said in ("waits one completed in", "waits one completed before: "):
        with in_terminal(path, *args) as terminal:
            assert terminal.end() == 0
            assert said in terminal.lines[-1]
    for args, said in (
        (("ls", "--limit", "1"), "… and more: --limit 10, or 0 for all"),
        (("ls", "--job", "none"), "no runs"),
        (("steps", "k" * 100), "no steps yet"),
        (("logs", "one"), "no log lines are stored"),
        (("purge", "--older-than", "1d"), "deleted 0 runs"),
        (("work", WAITS, "--until-idle"), "0 executed, 0 failed, 0 pending"),
    ):
        with in_terminal(path, *args) as terminal:
            assert terminal.end() == 0
            assert terminal.lines[-1] == said
