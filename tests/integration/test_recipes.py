"""The recipes work as they are printed, also where they are killed, stopped or start twice."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from configparser import RawConfigParser
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from children import DEADLINE_S, Eventually
from notebooks import Execution, Notebook
from pages import (
    DOCS,
    blocks_of,
    calls_of_durably,
    execute_here,
    follow,
    paced,
    shows,
    write_files,
)

import durably
from durably.testing import check

pytestmark = pytest.mark.slow

RECIPES = {page.stem: blocks_of(page) for page in (DOCS / "recipes").glob("*.md")}
TIMEOUT_S = 100  # only guards against hanging
ROWS = "".join(f"{number},user {number}\n" for number in range(100))


# Those whose transcripts say all that is to be tested; each of the others has tests below.
FOLLOWED = [
    "api-with-quota",
    "approval",
    "changing-code",
    "children",
    "cleaning-up",
    "files",
    "llm-batch",
    "logging",
    "moving-a-database",
    "processes-and-dask",
    "secrets",
    "testing-jobs",
]
OTHERS = [
    "cron",
    "frames-and-arrays",
    "long-loop",
    "notebook",
    "service",
    "several-machines",
    "sql",
]


def test_each_recipe_has_a_test() -> None:
    """A recipe that is added is executed by a test, and listed, too."""
    assert sorted([*FOLLOWED, *OTHERS]) == sorted(RECIPES)
    languages = {"python", "console", "sql", "ini", "text", "yaml", "dockerfile"}
    for blocks in RECIPES.values():
        assert {block.language for block in blocks} <= languages
    listed = re.findall(r"\]\(recipes/([\w-]+)\.md\)", (DOCS / "recipes.md").read_text("utf-8"))
    assert sorted(listed) == sorted(RECIPES)


def test_each_program_of_a_recipe_is_executed() -> None:
    """Where only transcripts are tested, they start it, or another program imports it."""
    for recipe in FOLLOWED:
        texts = [block.text for block in RECIPES[recipe] if block.language == "console"]
        programs = [block for block in RECIPES[recipe] if block.language == "python"]
        for each in programs:
            assert each.file is not None, recipe
            others = "\n".join(other.text for other in programs if other is not each)
            imported = re.search(rf"^(from|import) {Path(each.file).stem}\b", others, re.MULTILINE)
            assert imported or any(each.file in text for text in texts), f"{recipe}: {each.file}"


@pytest.mark.parametrize("recipe", FOLLOWED)
def test_what_the_recipe_shows(recipe: str, tmp_path: Path) -> None:
    """Its programs, and its commands in their order, print what the page shows."""
    if recipe == "processes-and-dask":
        pytest.importorskip("distributed")
    follow(DOCS / "recipes" / f"{recipe}.md", tmp_path)
    for database in tmp_path.glob("*.db"):
        assert check(database) == []


def environment(**variables: object) -> dict[str, str]:
    """That of a script, in which it is about noon, so that no test runs over midnight."""
    noon = f"<noon>{datetime.now(UTC).hour - 12:+d}"
    return {**os.environ, "TZ": noon, **{name: str(value) for name, value in variables.items()}}


def python(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, *(str(folder / each) if ".py" in each else each for each in arguments)]


def execute(folder: Path, *arguments: str, **variables: object) -> tuple[int, str]:
    """Execute a script of *folder* to its end; its exit status, and all that cron would mail."""
    variables = {"PACE": 0.01, **variables}
    done = subprocess.run(
        python(folder, *arguments),
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout


@contextmanager
def begin(
    folder: Path, *arguments: str, stdout: int = subprocess.PIPE, **variables: object
) -> Iterator[subprocess.Popen[str]]:
    """Start a script of *folder*, which has ended or is killed when the block is left."""
    with subprocess.Popen(
        python(folder, *arguments),
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a script; its exit status and what it has printed."""
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output


def stored(database: Path) -> list[durably.Run[Any, Any]]:
    """The runs of the file, oldest first."""
    with closing(durably.Durably(database)) as app:
        return app.get_runs()[::-1]


def attempts(database: Path, run: durably.Run[Any, Any]) -> list[int]:
    """In which attempt each completed step of a run was executed."""
    with closing(durably.Durably(database)) as app:
        return [step.attempt for step in app.get_steps(run) if step.status == "completed"]


def has_completed_steps(database: Path, number: int) -> Callable[[], bool]:
    return lambda: (
        database.exists() and any(run.completed_steps >= number for run in stored(database))
    )


class Pipe:
    """A file whose reader waits until it is given its content."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._writer = -1

    def has_reader(self) -> bool:
        """Return whether somebody reads it; that thread waits from now on."""
        try:
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def feed(self, content: str) -> None:
        """Write the content of the file to its reader."""
        with os.fdopen(self._writer, "w") as writer:
            writer.write(content)

    def drop(self) -> None:
        """Close the pipe of a reader that is dead."""
        os.close(self._writer)


# A notebook


def run_cells(notebook: Notebook, cells: list[str]) -> list[Execution]:
    return [notebook.ok(cell) for cell in cells]


def test_a_notebook(tmp_path: Path) -> None:
    """The cells work, and after a kill of the kernel they return what was stored."""
    cells = [paced(block.text) for block in RECIPES["notebook"]]
    with Notebook(tmp_path, PACE="0.01") as notebook:
        first = run_cells(notebook, cells)
        notebook.restart()
        again = run_cells(notebook, cells)
        extended = notebook.ok(
            "app.run(crawl, Crawl(21), key='crawl-1', on_payload_change='extend').output"
        )
        notebook.ok("run.redo(from_step='page-3')")
        redone = notebook.execute(cells[2])
        fresh = notebook.ok("app.run(crawl, Crawl(), key='crawl-1', fresh=True).output")

    for cells_of_pass in (first, again):
        results = [cell.result for cell in cells_of_pass]
        steps, items = results.pop(3), results.pop(3)
        assert results == ["", "", "2470", "", "", "3"]
        assert re.search(r"page-19 +361 +1\b", steps)
        assert re.search(r"19 +completed +361 +1\b", items)
    assert "page 19" in first[2].stdout
    assert first[6].stdout == "reading customers.csv\n"
    assert [cell.stdout for cell in again] == [""] * 8
    assert (extended.stdout, extended.result) == ("page 20\n", "2870")
    assert "PayloadChangedWarning" in redone.stderr
    assert "page 2\n" not in redone.stdout
    assert "page 3\n" in redone.stdout
    assert fresh.result == "2470"
    assert "page 19" in fresh.stdout


# Cron


class Cron:
    """The script of the recipe, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "imports.db"
        self.csv = folder / "users.csv"
        self.script = folder / "nightly.py"
        write_files(RECIPES["cron"], folder)

    def execute(self) -> tuple[int, str]:
        return execute(self.folder, "nightly.py", DURABLY_DB=self.database)

    def begin(self) -> Any:
        return begin(self.folder, "nightly.py", DURABLY_DB=self.database)

    def imported(self) -> int:
        with closing(sqlite3.connect(self.folder / "users.db")) as db:
            return int(db.execute("SELECT count(*) FROM users").fetchone()[0])


@pytest.fixture
def cron(tmp_path: Path) -> Cron:
    return Cron(tmp_path)


def test_cron_says_nothing_when_all_is_well(cron: Cron) -> None:
    """Success: no output and status 0, also of a second start of the day, which does nothing."""
    cron.csv.write_text(ROWS)

    assert cron.execute() == (0, "")
    assert cron.execute() == (0, "")

    [run] = stored(cron.database)
    assert (run.status, run.attempt, run.output, cron.imported()) == ("completed", 1, 100, 100)


def test_cron_skips_a_start_while_another_one_runs(cron: Cron, eventually: Eventually) -> None:
    """Overlap: the second start returns at once, and the first one does all of the work."""
    pipe = Pipe(cron.csv)
    with cron.begin() as first:
        eventually(pipe.has_reader)
        status, _ = cron.execute()
        assert status == 0
        assert first.poll() is None

        pipe.feed(ROWS)
        assert end(first) == (0, "")

    [run] = stored(cron.database)
    assert (run.status, run.attempt, cron.imported()) == ("completed", 1, 100)


def test_cron_imports_a_night_that_overlapped_later(cron: Cron, eventually: Eventually) -> None:
    """The next night's start leaves its run to a later one while last night's is executed."""
    tomorrow = cron.folder / "tomorrow.py"
    today = cron.script.read_text()
    tomorrow.write_text(today.replace("{date.today()}", "tomorrow"))
    pipe = Pipe(cron.csv)
    with cron.begin() as first:
        eventually(pipe.has_reader)
        assert execute(cron.folder, "tomorrow.py", DURABLY_DB=cron.database) == (0, "")
        assert [run.status for run in stored(cron.database)] == ["running", "pending"]
        cron.csv.rename(cron.folder / "read.csv")
        cron.csv.write_text(ROWS)
        pipe.feed(ROWS)
        assert end(first) == (0, "")

    assert cron.execute() == (0, "")

    assert [run.status for run in stored(cron.database)] == ["completed", "completed"]


def test_cron_continues_what_was_killed(cron: Cron, eventually: Eventually) -> None:
    """Killed between two checkpoints and started again: it executes what has no result."""
    cron.csv.write_text(ROWS)
    with closing(sqlite3.connect(cron.folder / "users.db", isolation_level=None)) as target:
        target.execute("BEGIN IMMEDIATE")  # the first batch waits
        with cron.begin() as process:
            eventually(has_completed_steps(cron.database, 1))
            process.kill()
            process.wait(DEADLINE_S)

    status, _ = cron.execute()

    assert status == 0
    [run] = stored(cron.database)
    assert (run.status, attempts(cron.database, run)) == ("completed", [1] + [2] * 10)
    assert cron.imported() == 100


def test_cron_mails_a_failure_and_continues_after_the_fix(cron: Cron) -> None:
    """A failure: status 1, and the mail of the page; then the script continues there."""
    cron.csv.write_text(ROWS.replace("63,", "bad,"))
    _, expected = (block.text for block in RECIPES["cron"] if block.language == "text")

    status, mail = cron.execute()

    assert status == 1
    [run] = stored(cron.database)
    assert shows(expected.replace("users-2026-11-28", str(run.idempotency_key)), mail), mail

    cron.script.write_text(cron.script.read_text().replace("raise ValueError(", "print("))
    status, mail = cron.execute()
    assert status == 0
    assert "step 'batch-0' was stored by an earlier version of insert()" in mail
    assert mail.endswith("bad row ['bad', 'user 63']\n")
    [run] = stored(cron.database)
    assert (run.status, attempts(cron.database, run)) == ("completed", [1] * 7 + [2] * 4)


def test_cron_fails_visibly_after_a_kill_too(cron: Cron, eventually: Eventually) -> None:
    """A failure of a run that a killed start has left is mailed like any other."""
    cron.csv.write_text(ROWS.replace("63,", "bad,"))
    with closing(sqlite3.connect(cron.folder / "users.db", isolation_level=None)) as target:
        target.execute("BEGIN IMMEDIATE")
        with cron.begin() as process:
            eventually(has_completed_steps(cron.database, 1))
            process.kill()
            process.wait(DEADLINE_S)

    status, mail = cron.execute()

    assert status == 1
    assert "failed in step 'batch-60' after 7 completed steps" in mail
    assert "ValueError: bad row ['bad', 'user 63']" in mail


def test_cron_redoes_a_night(cron: Cron) -> None:
    """A night that has failed is found, read again from the corrected file, and executed."""
    cron.csv.write_text(ROWS.replace("63,", "bad,"))
    assert cron.execute()[0] == 1
    [run] = stored(cron.database)
    cron.csv.write_text(ROWS)

    def durably_(*arguments: str) -> str:
        calls = [({"DURABLY_DB": str(cron.database)}, [*arguments])]
        status, printed = execute_here(calls, cron.folder)
        assert status == 0, printed
        return printed

    assert run.id[-8:] in durably_("ls", "--status", "failed", "--since", "yesterday")
    for _ in range(2):  # the second time it has completed
        durably_("redo", str(run.idempotency_key), "--from", "read")
        assert durably_("work", "nightly.py", "--until-idle") == ""
        [run] = stored(cron.database)
        assert (run.status, run.output, cron.imported()) == ("completed", 100, 100)
    assert durably_("ls", "--status", "failed", "--since", "yesterday") == ""


def test_cron_cares_for_the_file(cron: Cron) -> None:
    """The commands print nothing, and the backup is sound."""
    cron.csv.write_text(ROWS)
    assert cron.execute() == (0, "")
    [commands] = [block.text for block in RECIPES["cron"] if block.language == "console"]
    backup = cron.folder / "backup.db"
    for _ in range(2):
        for command in re.findall(r"^\$ (.*)$", commands, re.MULTILINE):
            calls = calls_of_durably(command.replace("/backup/imports.db", str(backup)))
            assert calls is not None
            assert execute_here(calls, cron.folder, DURABLY_DB=str(cron.database)) == (0, "")
    assert check(backup) == []


def test_cron_logs_two_lines(cron: Cron) -> None:
    """With logging configured a run that goes well is two lines."""
    cron.csv.write_text(ROWS)
    shown = "level=logging.INFO, format='%(levelname)s %(message)s'"
    setup = f"import logging\nlogging.basicConfig({shown})\n"
    cron.script.write_text(setup + cron.script.read_text())

    status, log = cron.execute()

    assert status == 0
    [run] = stored(cron.database)
    name = f"INFO …{run.id[-4:]} nightly-import {run.idempotency_key}"
    pattern = rf"{name} started\n{name} completed in [\d.]+ s: 11 steps, 0 from checkpoints\n"
    assert re.fullmatch(pattern, log), log


# A long loop


def nearly_full_pipe() -> tuple[int, int]:
    """A pipe into which some pages of text still fit; its reading and its writing end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 512)
    os.set_blocking(writer, True)
    os.read(reader, 4096)
    return reader, writer


def test_frames_and_arrays_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Executed again after it failed, it reads them from the file."""
    monkeypatch.chdir(tmp_path)
    write_files(RECIPES["frames-and-arrays"], tmp_path)
    result = tmp_path / "slope.txt"
    result.touch()

    def execute() -> list[str]:
        runpy.run_path(str(tmp_path / "fit.py"), run_name="__main__")
        return capsys.readouterr().out.split()

    with pytest.raises(FileExistsError):
        execute()
    assert capsys.readouterr().out.split() == ["loading", "fitting"]
    result.unlink()
    assert execute() == []
    assert result.read_text() == "slope 2.0 from 3 rows\n"


def test_a_loop_of_one_call(tmp_path: Path, eventually: Eventually) -> None:
    """Killed, failed, corrected, with more rows: it labels what has no label, and nothing else."""
    write_files(RECIPES["long-loop"], tmp_path)
    documents, database = tmp_path / "documents.csv", tmp_path / "labels.db"
    rows = [f"{number},text {number}\n" for number in range(600)]
    documents.write_text("".join([*rows[:599], "599,\n"]))

    def items() -> list[durably.ItemRecord]:
        with closing(durably.Durably(database)) as app:
            (run,) = app.get_runs()
            return app.get_items(run, "label")

    with begin(tmp_path, "label.py") as process:
        eventually(lambda: database.exists() and bool(stored(database)) and len(items()) >= 100)
        process.kill()
        process.wait(DEADLINE_S)
    before = items()
    status, printed = execute(tmp_path, "label.py")
    assert status == 1
    assert (
        "ItemsFailedError: 1 of 600 items failed: 1 x ValueError: row 599 has no text (599)"
        in printed
    )
    assert not (tmp_path / "labels.csv").exists()
    documents.write_text("".join([*rows, "600,new\n"]))

    assert execute(tmp_path, "label.py") == (0, "")

    after = {item.key: item for item in items()}
    assert all(after[item.key] == item for item in before)
    assert sorted(map(int, after)) == list(range(601))
    assert after["599"].attempts == 2
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    assert (len(labels), labels[5], labels[-1]) == (601, "5,short", "600,short")


def test_rows_of_a_loop_again(tmp_path: Path) -> None:
    """The commands of the page list what has failed, forget a label, and set one by hand."""
    write_files(RECIPES["long-loop"], tmp_path)
    (tmp_path / "documents.csv").write_text("16,a long text\n17,a long text\n18,\n")
    labels = tmp_path / "labels.csv"

    def durably_(*arguments: str) -> str:
        status, printed = execute_here([({}, [*arguments, "--db", "labels.db"])], tmp_path)
        assert status == 0, printed
        return printed

    assert execute(tmp_path, "label.py")[0] == 1
    assert "row 18 has no text" in durably_("items", "label", "--failed")
    durably_("set", "label", "label[18]", '"none"')
    durably_("set", "label", "label[17]", '"short"')
    assert execute(tmp_path, "label.py") == (0, "")
    assert labels.read_text().split() == ["16,long", "17,short", "18,none"]

    durably_("redo", "label", "--only", "label[17]")

    assert execute(tmp_path, "label.py") == (0, "")
    assert labels.read_text().split() == ["16,long", "17,long", "18,none"]


def test_a_long_loop(tmp_path: Path, eventually: Eventually) -> None:
    """Killed in the middle and started again, it inserts what was not inserted."""
    write_files(RECIPES["long-loop"], tmp_path)
    rows = "".join(f"{number},user {number}\n" for number in range(20_000))
    (tmp_path / "users.csv").write_text(rows)
    database = tmp_path / "imports.db"
    reader, writer = nearly_full_pipe()  # so it waits in one of its steps, where it is killed
    with os.fdopen(reader) as printed:
        with begin(tmp_path, "-u", "import_users.py", stdout=writer):
            os.close(writer)
            eventually(has_completed_steps(database, 20))
        before = printed.read()

    status, after = execute(tmp_path, "import_users.py")

    assert status == 0
    inserted = [int(first) for first in re.findall(r"inserting (\d+) to", before)]
    then = [int(first) for first in re.findall(r"inserting (\d+) to", after)]
    # The step that was in progress is executed again.
    assert sorted({*inserted, *then}) == list(range(0, 20_000, 100))
    assert len(inserted) >= 19
    assert len(inserted) + len(then) <= 201
    [run] = stored(database)
    assert (run.job_name, run.kind, run.status) == ("import-users-2026-11", "session", "completed")


# A service


def test_a_service_stops_at_a_step_and_continues(tmp_path: Path, eventually: Eventually) -> None:
    """SIGTERM ends the step in progress with its result, and the next start continues the run."""
    write_files(RECIPES["service"], tmp_path)
    database = tmp_path / "pictures.db"
    picture = Pipe(tmp_path / "cat.png")
    with begin(tmp_path, "worker.py", DURABLY_DB=database) as worker:
        status, run_id = execute(tmp_path, "submit.py", "cat.png", DURABLY_DB=database)
        assert status == 0
        eventually(picture.has_reader)
        worker.send_signal(signal.SIGTERM)
        assert worker.stdout is not None
        assert "Stopping after step 'size-64'" in worker.stdout.readline()
        picture.feed("a cat")
        status, _ = end(worker)
        assert status == 0

    [run] = stored(database)
    assert (run.id, run.status, run.completed_steps) == (run_id.strip(), "pending", 1)

    with begin(tmp_path, "worker.py", DURABLY_DB=database) as worker:
        for step in range(2, 4):
            eventually(picture.has_reader)
            picture.feed("a cat")
            eventually(has_completed_steps(database, step))
        eventually(lambda: stored(database)[0].status == "completed")
        worker.send_signal(signal.SIGTERM)
        assert end(worker) == (0, "")
    assert (tmp_path / "cat-1024.jpg").read_text() == "a cat"
    assert attempts(database, run) == [1, 1, 1]  # a stop begins no attempt


def test_a_service_that_is_killed_repeats_the_step_in_progress(
    tmp_path: Path, eventually: Eventually
) -> None:
    """SIGKILL in a step: the next start executes that step, and nothing else, again."""
    write_files(RECIPES["service"], tmp_path)
    database = tmp_path / "pictures.db"
    picture = Pipe(tmp_path / "cat.png")
    with begin(tmp_path, "worker.py", DURABLY_DB=database) as worker:
        execute(tmp_path, "submit.py", "cat.png", DURABLY_DB=database)
        eventually(picture.has_reader)
        picture.feed("a cat")
        eventually(has_completed_steps(database, 1))
        eventually(picture.has_reader)
        worker.kill()
        worker.wait(DEADLINE_S)
        picture.drop()

    (tmp_path / "cat.png").unlink()
    (tmp_path / "cat.png").write_text("a cat")
    with begin(tmp_path, "worker.py", DURABLY_DB=database) as worker:
        eventually(lambda: stored(database)[0].status == "completed")
        worker.send_signal(signal.SIGTERM)
        status, _ = end(worker)
        assert status == 0
    assert attempts(database, stored(database)[0]) == [1, 2, 2]


def test_the_unit_of_the_service_is_one(tmp_path: Path) -> None:
    """The unit can be read, and starts a script of the recipe."""
    [unit] = [block.text for block in RECIPES["service"] if block.language == "ini"]
    parsed = RawConfigParser()
    parsed.read_string(unit)

    assert parsed.sections() == ["Unit", "Service", "Install"]
    script = Path(parsed["Service"]["ExecStart"].split()[1]).name
    assert script in [block.file for block in RECIPES["service"]]
    assert parsed["Service"]["Environment"].startswith("DURABLY_DB=")


def test_the_container_is_given_the_folder_of_the_database() -> None:
    """Never the file alone; and its engine has the time to end its steps."""
    yaml = pytest.importorskip("yaml")
    [composed] = [block.text for block in RECIPES["service"] if block.language == "yaml"]
    [service] = yaml.safe_load(composed)["services"].values()
    database = Path(service["environment"]["DURABLY_DB"])
    assert [volume.split(":")[1] for volume in service["volumes"]] == [str(database.parent)]
    assert service["command"].split()[1] in {block.file for block in RECIPES["service"]}
    assert service["stop_grace_period"] == "5m"


def test_the_image_has_what_the_recipe_needs() -> None:
    """It installs durably as the other pages say, and has each script of the recipe."""
    [dockerfile] = [block.text for block in RECIPES["service"] if block.language == "dockerfile"]
    lines = dict(line.split(" ", 1) for line in dockerfile.splitlines())
    assert lines["RUN"] == "pip install 'durably[cli]'"
    *copied, _ = lines["COPY"].split()
    assert copied == [block.file for block in RECIPES["service"] if block.file is not None]
    assert json.loads(lines["CMD"])[-1] in copied
    version = lines["FROM"].removeprefix("python:").removesuffix("-slim")
    assert f"Programming Language :: Python :: {version}" in metadata("durably").get_all(
        "Classifier"
    )


# Several machines


def sum_of_squares(folder: Path) -> durably.MapResult[int]:
    """What is stored of the loop of a program that was executed in *folder*."""

    def square(number: int) -> int:
        raise AssertionError(number)

    return durably.map(square, range(1000), db=folder / "squares.db", name="square")


# That of Debian's Open MPI does not start as root, nor more processes than there are processors.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


@pytest.fixture(scope="module")
def mpiexec() -> str:
    """The command that starts programs of MPI; ``pip install mpi4py mpich`` brings one."""
    found = shutil.which("mpiexec", path=os.fspath(Path(sys.executable).parent))
    found = found or shutil.which("mpiexec")
    if found is None:
        pytest.skip("mpiexec is not here")
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False)
    if loaded.returncode != 0:
        pytest.skip(f"mpi4py cannot be loaded: {loaded.stderr.splitlines()[-1]}")
    return found


def execute_with_mpi(mpiexec: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Execute the script of the recipe on two workers."""
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", "mpi_squares.py"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**OPEN_MPI),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_mpi(tmp_path: Path, mpiexec: str) -> None:
    """Workers of MPI execute the items, and the program that drives stores their results."""
    write_files(RECIPES["several-machines"], tmp_path)
    done = execute_with_mpi(mpiexec, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "332833500"), done.stderr
    assert sum_of_squares(tmp_path).reused == 1000


def test_mpi_whose_worker_dies(tmp_path: Path, mpiexec: str) -> None:
    """It ends the whole program, as MPI does; the next start goes on where that was."""
    write_files(RECIPES["several-machines"], tmp_path)
    script = tmp_path / "mpi_squares.py"
    dies = """
        import os, pathlib, time
        time.sleep(0.001)
        with open("executed", "a") as file:
            file.write(f"{number}\\n")
        if number == 500 and not os.path.exists("died"):
            pathlib.Path("died").touch()
            os.kill(os.getpid(), 9)
    """
    head, call, rest = script.read_text().partition("    return number * number")
    script.write_text(head + textwrap.indent(textwrap.dedent(dies), "    ") + call + rest)
    done = execute_with_mpi(mpiexec, tmp_path)
    assert done.returncode != 0
    assert "332833500" not in done.stdout
    executed = tmp_path / "executed"
    executed.unlink()

    with closing(durably.Durably(tmp_path / "squares.db")) as app:
        (run,) = app.get_runs()
        kept = {item.key for item in app.get_items(run, "square")}
    assert 1 <= len(kept) <= 1000

    done = execute_with_mpi(mpiexec, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "332833500"), done.stderr
    assert kept.isdisjoint(map(int, executed.read_text().split()))


RAY = """
import concurrent.futures, multiprocessing, pickle
import cloudpickle

class ObjectRef:
    def __init__(self, future):
        self._future = future
    def future(self):
        return self._future

class Remote:
    def __init__(self, fn):
        self._fn = cloudpickle.dumps(fn)
    def remote(self, *args):
        return ObjectRef(pool.submit(call, self._fn, cloudpickle.dumps(args)))

def call(fn, args):
    return pickle.loads(fn)(*pickle.loads(args))

def remote(fn):
    return Remote(fn)

def init():
    global pool
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn)
"""


@pytest.mark.skipif(importlib.util.find_spec("cloudpickle") is None, reason="for the stand-in")
def test_ray(tmp_path: Path) -> None:
    """The executor does what a map asks of it; a pool of processes stands in for Ray."""
    write_files(RECIPES["several-machines"], tmp_path)
    if importlib.util.find_spec("ray") is None:
        (tmp_path / "ray.py").write_text(RAY, encoding="utf-8")
    status, printed = execute(tmp_path, "ray_squares.py")
    assert (status, printed.strip()) == (0, "332833500")
    assert sum_of_squares(tmp_path).reused == 1000


# Look at the file with SQL


def test_sql_reads_the_file(cron: Cron) -> None:
    """Each query can be asked, and answers what has happened."""
    cron.csv.write_text(ROWS[:600].replace("7,", "bad,"))
    assert cron.execute()[0] == 1
    assert cron.execute()[0] == 1
    queries = [block.text for block in RECIPES["sql"]]

    with closing(sqlite3.connect(f"file:{cron.database}?mode=ro", uri=True)) as db:
        latest, steps, counts, reasons, again = (db.execute(query).fetchall() for query in queries)

    [(run_id, job, status, key, started, error)] = latest
    assert (job, status) == ("nightly-import", "failed")
    assert key.startswith("users-")
    assert datetime.fromisoformat(started).tzinfo is not None
    assert error == "bad row ['bad', 'user 7']"
    assert [step[:3] for step in steps] == [("read", "completed", 1), ("batch-0", "failed", 2)]
    assert all(0 <= step[4] < TIMEOUT_S for step in steps)
    assert [row[:3] for row in counts] == [("nightly-import", "failed", 1)]
    assert reasons == [("ValueError", error, 1)]
    [(tried, attempts, outcomes)] = again
    assert (tried, attempts) == (run_id, 2)
    assert re.fullmatch(r"failed on \S+, failed on \S+", outcomes)
