"""What the pages show of commands, messages and lines is what durably prints.

Commands are executed in this process, on a file that a small program has made.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import define
from children import DEADLINE_S, Eventually
from pages import (
    DOCS,
    Block,
    blocks_of,
    calls_of_durably,
    entries_of,
    execute_here,
    sections,
    shows,
)

import durably
from durably.display.line import Glyphs, lines_of, text_of
from durably.display.meter import Meter
from durably.execution.live import RunView, View
from durably.testing import check

PAGE: Final = sections(DOCS / "command-line.md")
GUIDE: Final = blocks_of(DOCS / "guide.md")

# The script of the pages, with its steps in the lines that they show.
NIGHTLY: Final = '''\
"""Import the users of a file, ten rows at a time."""

import csv
from pathlib import Path

import durably
from attrs import define


@define
class Import:
    path: Path


def insert(rows: list[list[str]]) -> int:
    """Check the rows."""
    # Another program would store them here.
    for row in rows:
        if not row[0].isdigit():
            raise ValueError(f"bad row {row!r}")
    return len(rows)


@durably.job("nightly-import")
def nightly(step: durably.StepContext, payload: Import) -> int:
    rows, done = step.run("read", read, payload.path), 0
    for start in range(0, len(rows), 10):
        done += step.run(f"batch-{start}", insert, rows[start : start + 10])
        step.progress(done, len(rows))
    return done


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
'''
ROWS: Final = [f"{number},Ünïcode {number}\n" for number in range(61)]
# What the pages show of the ids of the three nights, of the oldest first.
IDS: Final = ("M7NSMJP5", "P20ZDTSV", "3F26V9AF")


@define
class Srv:
    """The folder that the pages call ``/srv``, and the shell of its user."""

    folder: Path

    @property
    def script(self) -> Path:
        """The script of the pages."""
        return self.folder / "nightly.py"

    @property
    def database(self) -> Path:
        """The file that the variable ``DURABLY_DB`` names."""
        return self.folder / "imports.db"

    @property
    def csv(self) -> Path:
        """The file that the nights import."""
        return self.folder / "users.csv"

    def follow(self, block: Block) -> None:
        """Execute the commands of a block; what they print must be what it shows."""
        with durably.Durably(self.database) as app:
            ids = [run.id[-8:] for run in app.get_runs()[::-1]]
        for command, expected in entries_of(block.text):
            real = command
            for shown, own in zip(IDS, ids, strict=False):
                real = real.replace(shown, own)
            printed = self.execute(real)
            assert shows(expected, printed), f"$ {command}\n{printed}\nis not\n{expected}"

    def execute(self, command: str) -> str:
        """Execute a command; what it prints, with the folder as the pages have it."""
        command, _, keys = command.partition(" | jq -r .")
        if command.startswith("vi "):
            return self._correct()
        calls = calls_of_durably(command.replace("/srv/", f"{self.folder}/"))
        assert calls is not None, command
        _, printed = execute_here(calls, self.folder, DURABLY_DB=str(self.database))
        if keys:
            printed = "".join(f"{json.loads(line)[keys]}\n" for line in printed.splitlines())
        return printed.replace(f"{self.folder}/", "/srv/")

    def _correct(self) -> str:
        text = self.script.read_text(encoding="utf-8")
        fixed = text.replace("not row[0].isdigit()", "not (row[0].isdigit() or row[0] == 'bad')")
        assert fixed != text
        self.script.write_text(fixed, encoding="utf-8")
        return ""


@pytest.fixture
def srv(tmp_path: Path) -> Srv:
    """A folder with a night that was imported, and one that has failed."""
    srv = Srv(tmp_path)
    srv.script.write_text(NIGHTLY, encoding="utf-8")
    module = module_of(srv.script)
    with durably.Durably(srv.database) as app:
        for night, rows in (("26", ROWS), ("27", [*ROWS[:60], "bad,row\n"])):
            srv.csv.write_text("".join(rows), encoding="utf-8")
            with suppress(durably.RunFailedError):
                app.run(module.nightly, module.Import(srv.csv), key=f"users-2026-11-{night}")
    return srv


def module_of(script: Path) -> Any:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def next_night(srv: Srv, eventually: Eventually) -> Iterator[None]:
    """Execute a third night, in a thread that is held in its fourth batch until the end."""
    module = module_of(srv.script)
    srv.csv.write_text("".join(ROWS), encoding="utf-8")
    insert, goes_on = module.insert, threading.Event()

    def held(rows: list[list[str]]) -> Any:
        if rows[0][0] == "30":
            goes_on.wait()
        return insert(rows)

    module.insert = held
    with closing(durably.Durably(srv.database)) as app:
        payload = module.Import(srv.csv)
        thread = threading.Thread(
            target=app.run, args=(module.nightly, payload), kwargs={"key": "users-2026-11-28"}
        )
        thread.start()
        try:
            eventually(lambda: "30/61" in srv.execute("durably ls"))
            yield
        finally:
            goes_on.set()
            thread.join(DEADLINE_S)


@pytest.mark.filterwarnings("always:step .* was stored by an earlier version of:UserWarning")
def test_last_nights_failure(srv: Srv, eventually: Eventually) -> None:
    """It is listed, shown, put back and continued, while the next night is executed."""
    listed, _ = PAGE["Last night's failure"]
    with next_night(srv, eventually):
        srv.follow(listed)
    assert [run["status"] for run in runs(srv)] == ["completed"] * 3
    assert check(srv.database) == []


def test_runs_by_hand(srv: Srv) -> None:
    """A result is set, forgotten and copied, as the page has it."""
    srv.follow(PAGE["Last night's failure"][1])
    assert [run["status"] for run in runs(srv)] == ["pending", "pending", "completed"]


def runs(srv: Srv) -> list[dict[str, Any]]:
    return [json.loads(line) for line in srv.execute("durably ls --json").splitlines()]


def test_a_run_that_fails(
    srv: Srv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``durably run`` prints of it, and what a script prints that does not handle it."""
    srv.follow(PAGE["Which file, which run"][0])

    monkeypatch.setenv("DURABLY_DB", str(srv.database))
    module = module_of(srv.script)
    with durably.Durably() as app, pytest.raises(durably.RunFailedError) as raised:
        app.run(module.nightly, module.Import(srv.csv), key="users-2026-11-27")
    sys.excepthook(raised.type, raised.value, raised.tb)
    printed = capsys.readouterr().err.replace(f"{srv.folder}/", "/srv/")
    [mail] = [block.text for block in GUIDE if "failed in step 'batch-60'" in block.text]
    assert shows(mail, printed), printed


def test_runs_that_ask(srv: Srv) -> None:
    """The question is listed, answered, and listed no more."""

    @durably.job
    def release(step: durably.StepContext, version: str) -> bool:
        return step.ask("approve", question=f"Publish {version}?", returns=bool)

    with durably.Durably(srv.database, jobs=[release]) as app:
        app.trigger(release, "1.4", idempotency_key="1.4")
        app.run_until_idle()
        srv.follow(PAGE["Runs that ask"][0])
        app.run_until_idle()
        assert app.get_runs(limit=1)[0].output is True


def test_the_lines_of_a_crontab(srv: Srv) -> None:
    """Each of its commands does its work in silence, and a second start does nothing."""
    crontabs = [
        block.text
        for block in [*PAGE["Under cron"], *blocks_of(DOCS / "recipes" / "cron.md")]
        if "MAILTO=" in block.text
    ]
    assert len(crontabs) == 2
    commands = [
        command
        for text in crontabs
        for command in re.findall(
            r"^[\d*/]+ [\d*/]+ [\d*/]+ [\d*/]+ [\d*/]+ +(.*)$", text, re.MULTILINE
        )
    ]
    assert len(commands) == 4
    srv.csv.write_text("".join(ROWS), encoding="utf-8")
    (srv.folder / "backup").mkdir()
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        if command.startswith("python "):
            continue  # the script of the recipe, which is executed there
        for _ in range(2):
            printed = srv.execute(command.replace("/backup/", f"{srv.folder}/backup/"))
            # The doctor says that a night has failed; nothing else is unusual.
            assert ("failed runs: 1 run" in printed) == ("doctor" in command), printed
    assert [run["status"] for run in runs(srv)] == ["completed", "failed", "completed"]
    assert check(srv.folder / "backup" / "imports.db") == []


def test_for_programs(srv: Srv) -> None:
    """The keys of what has failed, one a line."""
    srv.follow(PAGE["For programs"][0])


def test_completion(srv: Srv) -> None:
    """Each shell is given a script; that of bash is read by it."""
    [block] = PAGE["Completion"]
    shells = re.findall(r"_DURABLY_COMPLETE=(\w+)_source durably", block.text)
    assert shells == ["bash", "zsh", "fish"]
    for shell in shells:
        variables = {"_DURABLY_COMPLETE": f"{shell}_source"}
        status, script = execute_here([(variables, [])], srv.folder)
        assert (status, "_DURABLY_COMPLETE" in script) == (0, True)
        if shell == "bash":
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


# What durably says by itself.


def shown_in(page: str, part: str) -> str:
    """Return the one block of a page that contains *part*."""
    [found] = [block.text for block in blocks_of(DOCS / page) if part in block.text]
    return found


def test_the_lines_of_a_log(srv: Srv, caplog: pytest.LogCaptureFixture) -> None:
    """Those of a run that goes well, in the form that the page has."""
    caplog.set_level(logging.INFO, "durably")
    srv.csv.write_text("".join(ROWS), encoding="utf-8")
    module = module_of(srv.script)
    durably.run(module.nightly, module.Import(srv.csv), key="users-2026-11-28", db=srv.database)

    lines = [f"02:30:01 {r.levelname} {r.name} {r.message}\n" for r in caplog.records]
    expected = shown_in("guide.md", "completed in 43.2 s").replace(" 02:30:44", "02:30:01")
    assert shows(re.sub(r"\d\d:\d\d:\d\d", "02:30:01", expected), "".join(lines[-2:]))


def test_the_lines_of_a_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that was stopped after 155 of 500 items says so, and how it has ended."""
    caplog.set_level(logging.INFO, "durably")

    def label(number: int) -> int:
        if number % 50 == 2:
            raise ValueError(number)
        return number

    for count in (155, 500):
        options = {"db": tmp_path / "labels.db", "on_failed": "return", "max_workers": 8}
        durably.map(label, range(count), name="label", key=str, **options)

    lines = [record.message for record in caplog.records if record.message.startswith("label: ")]
    *_, begins, ends = lines
    assert shows(shown_in("loops.md", "label: 500 items"), f"{begins}\n{ends.splitlines()[0]}\n")


def test_the_warning_of_changed_code(tmp_path: Path) -> None:
    """It names the step, and how to execute it again."""

    @durably.job
    def cleaning(step: durably.StepContext) -> int:
        return step.run("double", int.__mul__, step.run("clean", clean), 2)

    def clean() -> int:
        return 1

    with durably.Durably(tmp_path / "x.db", jobs=[cleaning]) as app:
        app.redo(app.run(cleaning, key="k"), from_step="double")

        def clean() -> int:  # type: ignore[no-redef]
            return 3

        with pytest.warns(durably.CodeChangedWarning) as warned:
            assert app.run(cleaning, key="k").output == 2
    assert shows(shown_in("guide.md", "step 'clean' was stored"), f"{warned[0].message}\n")


def test_the_live_lines() -> None:
    """Those of a run and of a map, in the middle of their work."""

    def line(run: RunView, now_s: float, *, is_map: bool) -> str:
        frame = Meter(0.0).frame(View((run,), is_map=is_map), now_s)
        return text_of(lines_of(frame, 200, Glyphs())[0]) + "\n"

    crawl = RunView("1", "crawl", began_s=0.0, done=20, reused=10, total=30, step="page-20")
    assert line(crawl, 3.3, is_map=False) == shown_in("guide.md", "crawl ▸running")
    labels = RunView(
        "1", "complete", began_s=0.0, done=154, reused=78, failed=4, total=500, unit="items"
    )
    shown = shown_in("loops.md", "154/500").strip()
    assert line(labels, 6.0, is_map=True).strip() == shown
