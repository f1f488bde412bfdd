"""What programs display in a terminal, on its screen: with Ctrl-C, prints and debuggers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from children import DEADLINE_S, ENVIRONMENT
from terminals import Program

pytestmark = pytest.mark.slow

# A script over 60 items; some fail until they are fixed.
LABEL = """
import os, time
import durably
class BadRequest(Exception): pass
documents = [f"doc-{number:03}" for number in range(60)]
def complete(document):
    time.sleep(float(os.environ["DELAY"]))
    while document > os.environ.get("HELD_AFTER", "e") and not os.path.exists("go"):
        time.sleep(0.01)
    if document.endswith("7") and "FIXED" not in os.environ:
        raise BadRequest(f"400 cannot parse {document}")
    if "LIMITED" in os.environ:
        raise durably.RetryAfter(3600)
    return document.upper()
labels = durably.map(complete, documents, db="labels.db", key=str, max_workers=8)
"""
TIMES = "\N{MULTIPLICATION SIGN}"
KINDS = f"  6 {TIMES} BadRequest: 400 cannot parse doc-007  (doc-007, doc-017, doc-027, …)"


def test_a_script_over_many_items(tmp_path: Path) -> None:
    """The session of three: killed, stopped, with failures, fixed, with nothing to do."""

    def start(delay: float, **environment: str) -> Program:
        return Program(LABEL, tmp_path, columns=200, DELAY=str(delay), **environment)

    with start(0.3, HELD_AFTER="doc-029") as program:
        line = program.wait_for("/s  ")
        assert re.fullmatch(r" +\d+/60 ▕█+ +▏( \d failed )? \d+\.\d/s  [\d.]+ s left", line)
        assert program.lines[0] == "complete: 60 items, 0 done before"
        program.kill()
        assert len(program.lines) == 2
    with start(0.3, HELD_AFTER="doc-049") as program:
        line = program.wait_for("░█")
        program.press("\x03")
        program.wait_for("Stopping: ")
        (tmp_path / "go").touch()
        assert program.end() == -2
        begins, line, stopping = program.lines
        assert re.fullmatch(
            r"complete: 60 items, \d+ done before(, \d failed before and tried again)?", begins
        )
        assert line.endswith("^C")
        assert re.fullmatch(
            r"Stopping: waiting for 8 calls in progress. \d+ of 60 are in labels.db; start the "
            r"script again to go on.",
            stopping,
        )
    with start(0.15) as program:
        assert program.end() == 1
        assert re.fullmatch(
            r"complete: 54 of 60 done \(\d+ before\), 6 failed, \d s", program.lines[-2]
        )
        assert program.lines[-1] == KINDS
    with start(0, FIXED="1") as program:
        assert program.end() == 0
        [line] = program.lines
        assert re.fullmatch(r"complete: 60 of 60 done \(54 before\), 0 failed, \d s", line)
    with start(0, FIXED="1") as program:
        assert program.end() == 0
        [line] = program.lines
        assert re.fullmatch(r"complete: 60 of 60 done \(60 before\), 0 failed, \d s", line)


def test_a_map_that_waits_says_for_how_long(tmp_path: Path) -> None:
    """Ctrl-C ends the wait at once."""
    with Program(LABEL, tmp_path, DELAY="0", LIMITED="1", FIXED="1") as program:
        program.wait_for("rate limited: all 8 workers wait 59 min 5")
        program.press("\x03")
        assert program.end() == -2
        assert program.lines[-1].startswith("KeyboardInterrupt: stopped in step 'complete'; ")


NOISY = """
import logging, subprocess, sys, threading, time
import durably
{prepare}
logging.basicConfig(format="%(message)s")
gone = threading.Event()
def late(write):
    gone.wait()
    write("late\\n")
def noise(number):
    if number == 0:
        time.sleep(0.7)
        threading.Thread(target=late, args=(sys.stdout.write,)).start()
    print("printed", number)
    print("in ", end="")
    time.sleep(0.3)
    print("parts", file=sys.stderr)
    logging.getLogger("mine").warning("logged %s", number)
    if number == 2:
        print("asked", input("what? "))
def job(step):
    for number in range(3):
        step.run(f"noise-{{number}}", noise, number)
        step.progress(number + 1, 3)
print("begins")
durably.run(durably.Job("noisy", job), db="noisy.db")
gone.set()
"""


@pytest.mark.parametrize(
    ("prepare", "colours"),
    [("", True), ("import os; os.environ['NO_COLOR'] = '1'", False), ("RICHLESS", False)],
    ids=["rich", "rich without colours", "without rich"],
)
def test_prints_go_above_the_line(tmp_path: Path, prepare: str, colours: bool) -> None:
    """Whole lines and parts of lines, logging, what is asked, a thread that ends late."""
    if prepare == "RICHLESS":
        prepare = "sys.modules['rich'] = None"
    with Program(NOISY.format(prepare=prepare), tmp_path) as program:
        shown = program.wait_for("noisy ▸running")
        program.wait_for("what?")
        program.press("that\r")
        assert program.end() == 0
        lines = program.lines
    assert shown.startswith(("noisy ▸running ▕", "noisy ▸running 0.", "noisy ▸running 1."))
    assert lines[:-2] == [
        "begins",
        *(
            line
            for number in range(3)
            for line in (f"printed {number}", "in parts", f"logged {number}")
        ),
        "what? that",
        "asked that",
    ]
    assert re.fullmatch(r"noisy ✓completed ▕█{30}▏ 3/3 · (\d\.\d steps/s · )?\d\.\d s", lines[-2])
    assert lines[-1] == "late"
    assert (b"\x1b[34m" in program.raw) == colours
    assert re.sub(rb"\x1b\[[0-9;]*[mJA]", b"", program.raw).count(b"\x1b") == 0


def test_the_line_follows_the_width_of_the_terminal(tmp_path: Path) -> None:
    """A debugger's prompt has the last line to itself."""
    source = """
import time
import durably
def job(step):
    for number in range(1000):
        step.run(f"a-step-with-a-long-name-{number}", time.sleep, 0.05)
        step.progress(number + 1, 1000, "and a message")
        if number == 60:
            breakpoint()
            return
durably.run(durably.Job("a-job-with-a-name", job), db="a.db")
"""
    with Program(source, tmp_path, columns=150) as program:
        assert "now: a-step-with-a-long-name-" in program.wait_for("message")
        program.resize(45)
        program.wait_for("/1,000 · ")
        program.resize(24)
        program.wait_for("a-job-with-a-name ▸r…")
        program.resize(100)
        program.wait_for("(Pdb)")
        program.press("number + 1000\r")
        program.wait_for("1060")
        program.press("c\r")
        assert program.end() == 0
        lines = program.lines
    assert [line for line in lines if "1060" in line] == ["1060"]
    assert lines[-1].startswith("a-job-with-a-name ✓completed ▕█")


def test_nothing_is_shown_in_a_pipe_and_the_output_is_the_users(tmp_path: Path) -> None:
    """As under cron; and where it is asked for, on the standard error output alone."""
    source = "import time, durably\n{0}\n"
    job = (
        "def job(step):\n    print('out')\n    step.run('one', time.sleep, 0.8)\n"
        "durably.run(durably.Job('job', job), db={db!r}, fresh=True)"
    )
    program = source.format(job.format(db=str(tmp_path / "a.db")))

    def executed(**environment: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**ENVIRONMENT, **environment},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        return done.stdout, done.stderr

    assert executed() == ("out\n", "")
    out, err = executed(DURABLY_SHOW="1")
    assert out == "out\n"
    assert [line.split()[:2] for line in err.splitlines()] == [
        ["job", "▸running"],
        ["job", "✓completed"],
    ]
