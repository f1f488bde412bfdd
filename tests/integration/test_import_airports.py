"""The main job, as a user runs it: killed, started again, started once too often."""

from __future__ import annotations

import csv
import importlib.resources
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import frozen
from children import DEADLINE_S
from pages import README, blocks_of, entries_of

import durably

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "import_airports.py"
BATCH_SIZE = 100
TIMEOUT_S = 100  # only guards against hanging
HEADER = "icao,iata,name,city,subd,country,elevation,lat,lon,tz,lid"


def shipped_codes() -> list[str]:
    """The key of each airport that the package airportsdata ships, in the order of its file."""
    file = importlib.resources.files("airportsdata") / "airports.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        return [row["icao"] for row in csv.DictReader(lines)]


CODES = shipped_codes()
BATCHES = -(-len(CODES) // BATCH_SIZE)


@frozen
class Finished:
    """What one execution of the script came to."""

    status: int
    output: str

    @property
    def closing(self) -> tuple[int, int, int, int]:
        """Rows, malformed rows, batches executed now and batches found, off the last line."""
        numbers = re.fullmatch(
            r"([\d,]+) rows imported \(([\d,]+) malformed\), ([\d,]+) batches executed now, "
            r"([\d,]+) found in checkpoints, \d+\.\d seconds\.",
            self.output.splitlines()[-1],
        )
        assert numbers, self.output
        rows, malformed, executed, found = (
            int(number.replace(",", "")) for number in numbers.groups()
        )
        return rows, malformed, executed, found


def execute(folder: Path, *options: str) -> Finished:
    """Run the script in *folder* to its end."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout)


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the script in *folder*, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def imported_codes(folder: Path) -> list[str]:
    """The key of each row of the target: a database that is not durably's."""
    with closing(sqlite3.connect(folder / "airports.db")) as db:
        return [code for (code,) in db.execute("SELECT icao FROM airports")]


def write_csv(folder: Path, *rows: str) -> str:
    """A CSV of one's own in *folder*; its name."""
    (folder / "own.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return "own.csv"


GOOD = "EFHK,HEL,Helsinki Vantaa Airport,Helsinki,Uusimaa,FI,179,60.3172,24.963301,Europe/Helsinki,"
ALSO_GOOD = "00AA,,Aero B Ranch Airport,Leoti,Kansas,US,3435,38.704022,-101.473911,America/Chicago,"


@pytest.mark.parametrize("batches", [1, 250])
def test_goes_on_where_it_was_killed(tmp_path: Path, batches: int) -> None:
    """Killed after N batches and started again, it executes the others, at once, and only those."""
    killed = execute(tmp_path, "--die-after", str(batches))
    assert killed.status == -signal.SIGKILL, killed.output

    started_at = datetime.now(UTC)
    finished = execute(tmp_path)

    assert finished.status == 0, finished.output
    assert finished.closing == (len(CODES), 0, BATCHES - batches, batches)
    assert sorted(imported_codes(tmp_path)) == sorted(CODES)
    with durably.Durably(tmp_path / "airports-durably.db") as app:
        [run] = app.get_runs()
        steps = app.get_steps(run)
    assert [step.attempt for step in steps] == [1] * batches + [2] * (BATCHES - batches)
    # Without waiting until the dead owner looks stale.
    assert steps[batches].started_at - started_at < timedelta(seconds=DEADLINE_S)


def test_killed_again_and_again_it_gets_there(tmp_path: Path) -> None:
    """Each start gets as far as it lives, and none does again what an earlier one did."""
    for _ in range(3):
        assert execute(tmp_path, "--die-after", "80").status == -signal.SIGKILL

    finished = execute(tmp_path, "--die-after", "80")

    assert finished.closing == (len(CODES), 0, BATCHES - 240, 240)
    assert sorted(imported_codes(tmp_path)) == sorted(CODES)


def test_the_readme_shows_what_it_prints(tmp_path: Path) -> None:
    """Killed, continued and started once more, which does nothing and says so."""
    [transcript] = [
        block.text for block in blocks_of(README) if "import_airports.py --die-after" in block.text
    ]
    shown = [
        printed
        for command, printed in entries_of(transcript)
        if command.startswith(".venv/bin/python docs/examples/import_airports.py")
    ]

    killed, finished, again = (
        execute(tmp_path, *options) for options in (["--die-after", "100"], [], [])
    )

    assert [each.status for each in (killed, finished, again)] == [-signal.SIGKILL, 0, 0]
    assert finished.closing == (len(CODES), 0, BATCHES - 100, 100)
    assert again.closing == (len(CODES), 0, 0, 0)
    # How far it is, which depends on when it was said last, and what the shell says.
    assert general(shown[0]) == "N of N rows Killed"
    assert {general(line) for line in killed.output.splitlines()} <= {"N of N rows"}
    # Where there is no terminal, how far it is and that it was recovered are lines of their own.
    lines = [
        [line for line in each.output.splitlines() if not re.search(" rows$| recovered: ", line)]
        for each in (finished, again)
    ]
    assert [general("\n".join(each)) for each in lines] == [general(text) for text in shown[1:]]


def general(output: str) -> str:
    """What is printed, without its numbers and the end of its last line."""
    return re.sub(r"[\d,.]*\d", "N", output).rstrip("\n")


def test_malformed_rows_are_reported_and_counted(tmp_path: Path) -> None:
    """A row that does not fit is left out, with its line and what is wrong with it."""
    source = write_csv(
        tmp_path,
        GOOD,
        "EF KH,HEX,No such code,Helsinki,Uusimaa,FI,1,60.1,24.1,Europe/Helsinki,",
        "EFAA,HEA,Too far north,Helsinki,Uusimaa,FI,1,90.5,24.1,Europe/Helsinki,",
        "EFAB,HEB,Not a number,Helsinki,Uusimaa,FI,1,60.1,east,Europe/Helsinki,",
        "EFAC,HEC,Not in the world,Helsinki,Uusimaa,FI,1,60.1,nan,Europe/Helsinki,",
        "EFAD,HED,Cut off",
        "EFAE,HEE,Helsinki, Airport,Helsinki,Uusimaa,FI,1,60.1,24.1,Europe/Helsinki,",
        ALSO_GOOD,
    )

    finished = execute(tmp_path, "--source", source, "--batch-size", "3")

    assert finished.status == 0, finished.output
    assert finished.closing == (2, 6, 3, 0)
    assert sorted(imported_codes(tmp_path)) == ["00AA", "EFHK"]
    reported = re.findall(r"malformed, left out: line (\d+): (.*)", finished.output)
    assert [int(line) for line, _ in reported] == [3, 4, 5, 6, 7, 8]
    assert all(reason for _, reason in reported)


def test_malformed_rows_of_checkpoints_are_counted_too(tmp_path: Path) -> None:
    """What a killed process left out is in the closing line of the one that finished."""
    source = write_csv(tmp_path, "bad,,,,,,,,,,", GOOD, ALSO_GOOD)
    options = ["--source", source, "--batch-size", "1"]
    assert execute(tmp_path, *options, "--die-after", "1").status == -signal.SIGKILL

    assert execute(tmp_path, *options).closing == (2, 1, 2, 1)


def test_another_content_is_another_import(tmp_path: Path) -> None:
    """The key is made from the content: a changed file is imported, over the old rows."""
    source = write_csv(tmp_path, GOOD)
    assert execute(tmp_path, "--source", source).closing == (1, 0, 1, 0)
    write_csv(tmp_path, GOOD.replace("Vantaa", "West"), ALSO_GOOD)

    assert execute(tmp_path, "--source", source).closing == (2, 0, 1, 0)
    with closing(sqlite3.connect(tmp_path / "airports.db")) as db:
        names = [name for (name,) in db.execute("SELECT name FROM airports ORDER BY icao")]
    assert names == ["Aero B Ranch Airport", "Helsinki West Airport"]


def test_a_failed_import_continues_once_the_cause_is_fixed(tmp_path: Path) -> None:
    """A target that cannot be opened fails the run with a message; the next start retries it."""
    options = ["--source", write_csv(tmp_path, GOOD), "--target", "folder/airports.db"]
    failed = execute(tmp_path, *options)
    assert failed.status == 1
    assert failed.output.startswith("Failed: sqlite3.OperationalError: ")
    assert "Traceback" not in failed.output
    (tmp_path / "folder").mkdir()

    assert execute(tmp_path, *options).closing == (1, 0, 1, 0)


def test_a_file_without_the_columns_is_rejected_with_a_message(tmp_path: Path) -> None:
    """A CSV of something else fails the run, and says which columns it lacks."""
    (tmp_path / "other.csv").write_text("icao,name\nEFHK,Helsinki\n", encoding="utf-8")

    failed = execute(tmp_path, "--source", "other.csv")

    assert failed.status == 1
    assert "has no column city, country, iata, lat, lon, tz" in failed.output


def test_ctrl_c_stops_at_a_checkpoint(tmp_path: Path) -> None:
    """An interrupted import exits with 130 and goes on at the next start."""
    with begin(tmp_path, "--batch-size", "25") as process:
        assert process.stdout
        process.stdout.readline()  # the first tenth is done
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130, output
    assert "Start it again" in output
    assert "Traceback" not in output

    rows, _, executed, found = execute(tmp_path, "--batch-size", "25").closing

    assert rows == len(CODES)
    assert executed + found == -(-len(CODES) // 25)
    assert found >= len(CODES) // 25 // 10


def test_two_at_once_share_one_run(tmp_path: Path) -> None:
    """Of two processes that are asked for the same import one does it, and both end well."""
    with begin(tmp_path) as one, begin(tmp_path) as other:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in (one, other)]

    finished = [Finished(one.returncode, outputs[0]), Finished(other.returncode, outputs[1])]

    assert [each.status for each in finished] == [0, 0], outputs
    assert sorted(each.closing[2] for each in finished) == [0, BATCHES]
    assert sorted(imported_codes(tmp_path)) == sorted(CODES)


def test_a_terminal_sees_one_line_that_changes(tmp_path: Path) -> None:
    """On a terminal progress rewrites its line, and the closing line replaces it."""
    source = write_csv(tmp_path, *[GOOD] * 20)
    terminal, script_side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--source", source, "--batch-size", "1"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=script_side,
    ) as process:
        os.close(script_side)
        shown = b""
        while chunk := read_terminal(terminal):
            shown += chunk
    os.close(terminal)

    assert process.returncode == 0
    lines = shown.decode().splitlines()
    assert "\r\033[K20 of 20 rows" in shown.decode()
    assert len([line for line in lines if line.endswith("seconds.")]) == 1


def read_terminal(terminal: int) -> bytes:
    """What the terminal shows next, nothing once the other side is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux tells the end of a terminal by an error
        return b""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--source", "missing.csv"], "there is no file"),
        (["--target", "one.db", "--database", "one.db"], "must be two files"),
    ],
)
def test_bad_options_are_rejected(tmp_path: Path, options: list[str], complaint: str) -> None:
    """A bad option is named, and no file is made."""
    refused = execute(tmp_path, *options)

    assert refused.status == 2
    assert complaint in refused.output
    assert not list(tmp_path.iterdir())
