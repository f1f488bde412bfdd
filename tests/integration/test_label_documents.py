"""The main job of loops, as a user runs it: killed, stopped, failed, fixed, started again."""

from __future__ import annotations

import csv
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from children import DEADLINE_S, Eventually
from pages import DOCS, blocks_of, entries_of

import durably
from durably.testing import check

pytestmark = pytest.mark.slow

SCRIPT = DOCS / "examples" / "label_documents.py"
# The times of the fake service: so slow that the script is still busy when it is hit, and quick.
SLOW, QUICK = "0.3", "0.02"
BAD = [f"doc-{number:03}" for number in range(7, 500, 50)]


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for the end; the exit status as a shell has it, and the lines that were printed."""
    with process:
        output, _ = process.communicate(timeout=DEADLINE_S)
    status = process.returncode
    return 128 - status if status < 0 else status, output.splitlines()


def stored(folder: Path) -> tuple[int, int]:
    """How many documents have a label, and how many have failed."""
    with closing(sqlite3.connect(folder / "labels.db")) as db:
        (counts,) = db.execute("SELECT count(output), count(error) FROM durably_items")
    done, failed = counts
    return done, failed


def hit(
    folder: Path, signal_number: signal.Signals, more: int, eventually: Eventually
) -> tuple[int, list[str]]:
    """Start the script, and send it a signal after so many more documents are stored."""
    before = sum(stored(folder)) if (folder / "labels.db").exists() else 0
    process = start(folder, SCALE=SLOW)
    assert process.stdout is not None
    first = process.stdout.readline()  # its tables are there
    eventually(lambda: sum(stored(folder)) >= before + more)
    process.send_signal(signal_number)
    status, lines = end(process)
    return status, [first.rstrip("\n"), *lines]


def begins(done: int, failed: int) -> str:
    again = f", {failed} failed before and tried again" if failed else ""
    return f"complete: 500 items, {done} done before{again}"


def records(folder: Path) -> list[durably.ItemRecord]:
    with closing(durably.Durably(folder / "labels.db")) as app:
        (run,) = app.get_runs()
        return app.get_items(run, "complete")


def test_each_start_does_what_is_left(tmp_path: Path, eventually: Eventually) -> None:
    """Killed, stopped, run to its end, fixed, and started again: nothing is done twice or lost.

    What is printed is what the page on loops shows, but for its numbers and the folder.
    """
    shown, statuses = transcript()
    printed = []
    status, lines = hit(tmp_path, signal.SIGKILL, 40, eventually)
    assert (status, lines) == (137, [begins(0, 0)])
    printed.append(lines)

    after_kill = stored(tmp_path)
    status, lines = hit(tmp_path, signal.SIGINT, 40, eventually)
    assert status == 130 == statuses[0]
    printed.append(lines)
    assert lines[0] == begins(*after_kill)
    assert re.fullmatch(
        r"Stopping: waiting for [1-8] calls? in progress\. \d+ of 500 are in labels\.db; start the "
        r"script again to go on\.",
        lines[1],
    )
    after_stop = stored(tmp_path)
    kept = f"{after_stop[0]} of its items are kept. Start it again to go on."
    assert lines[2:] == [f"KeyboardInterrupt: stopped in step 'complete'; {kept}"]

    status, lines = end(start(tmp_path, SCALE=QUICK))
    assert status == 1 == statuses[1]
    printed.append(lines)
    assert lines[0] == begins(*after_stop)
    done, kinds, *report = lines[1:]
    assert re.fullmatch(
        rf"complete: 490 of 500 done \({after_stop[0]} before\), 10 failed, \d+ s", done
    )
    assert kinds.endswith("BadRequest: 400 cannot parse doc-007  (doc-007, doc-057, doc-107, …)")
    assert report[0].startswith("ItemsFailedError: 10 of 500 items failed: 10 x BadRequest: 400 ")
    assert report[-1].endswith("start it again: it executes what failed.")
    assert not (tmp_path / "labels.csv").exists()
    failed = records(tmp_path)
    assert [item.key for item in failed if item.status == "failed"] == BAD

    status, lines = end(start(tmp_path, SCALE=QUICK, FIXED="1"))
    assert (status, lines[0]) == (0, begins(490, 10))
    printed.append(lines)
    assert re.fullmatch(r"complete: 500 of 500 done \(490 before\), 0 failed, \d+ s", lines[1])
    fixed = {item.key: item for item in records(tmp_path)}
    assert [key for key, item in fixed.items() if item.status == "failed"] == []
    assert all(fixed[item.key] == item for item in failed if item.status == "completed")

    status, lines = end(start(tmp_path, SCALE=QUICK, FIXED="1"))
    assert (status, lines[0]) == (0, begins(500, 0))
    assert re.fullmatch(r"complete: 500 of 500 done \(500 before\), 0 failed, \d s", lines[1])
    printed.append(lines)
    assert [general(each) for each in printed] == [general(each) for each in shown]
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [key for key, _ in rows] == [f"doc-{number:03}" for number in range(500)]
    assert {label for _, label in rows} == {"short", "long"}
    assert check(tmp_path / "labels.db") == []


def transcript() -> tuple[list[list[str]], list[int]]:
    """What the page shows of each start, and the exit statuses that it shows."""
    [block] = [
        block
        for block in blocks_of(DOCS / "loops.md")
        if block.language == "console" and "label_documents.py" in block.text
    ]
    entries = entries_of(block.text)
    starts = [printed.splitlines() for command, printed in entries if "label_doc" in command]
    assert starts[0].pop() == "Killed"
    return starts, [int(printed) for command, printed in entries if command == "echo $?"]


def general(lines: list[str]) -> list[str]:
    """The lines without what differs from one execution to the next."""
    text = "\n".join(lines).replace("^C", "")
    text = re.sub(r'File ".*label_documents', 'File "label_documents', text)
    text = re.sub(r", \d+ failed before and tried again", "", text)
    text = re.sub(r"\d+( of its items| of 500 are in| done before| before\)|, in )", r"N\1", text)
    text = re.sub(r"\d+ s$", "N s", text, flags=re.MULTILINE)
    return re.sub(r"waiting for \d calls?", "waiting for N calls", text).splitlines()
