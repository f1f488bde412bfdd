"""``durably.map`` in cells of a notebook: failures, the stop button, a new kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from notebooks import Notebook

pytestmark = pytest.mark.slow

DEFINE = """
import time
import durably
def label(number):
    print("label", number)
    if number == {bad}:
        raise ValueError(f"cannot parse {{number}}")
    return number * number
"""
CALL = 'labels = durably.map(label, range(4), db="labels.db"); list(labels), labels.reused'


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    with Notebook(tmp_path) as notebook:
        yield notebook


def test_a_failed_item_is_tried_again_with_the_function_of_today(notebook: Notebook) -> None:
    """The cell shows the counts, the user's lines and the next move, and the call goes on."""
    notebook.ok(DEFINE.format(bad=2), cell_id="define")
    failed = notebook.execute(CALL, cell_id="call")
    assert failed.stdout == "label 0\nlabel 1\nlabel 2\nlabel 3\n"
    lines = failed.traceback.splitlines()
    assert lines[0] == "ItemsFailedError: 1 of 4 items failed: 1 x ValueError: cannot parse 2 (2)"
    assert any(line.strip() == 'raise ValueError(f"cannot parse {number}")' for line in lines)
    assert lines[-1] == (
        "The results of the other items are kept. Fix the cause and run this cell again: it "
        "executes what failed."
    )
    assert len(lines) <= 10
    notebook.ok(DEFINE.format(bad=None), cell_id="define")

    fixed = notebook.ok(CALL, cell_id="call")
    again = notebook.ok(CALL, cell_id="call")
    notebook.restart()
    notebook.ok(DEFINE.format(bad=None))
    restarted = notebook.ok(CALL)

    assert (fixed.stdout, fixed.result) == ("label 2\n", "([0, 1, 4, 9], 3)")
    assert (again.stdout, again.result) == ("", "([0, 1, 4, 9], 4)")
    assert (restarted.stdout, restarted.result) == ("", "([0, 1, 4, 9], 4)")


def test_other_groups_are_shown_as_before(notebook: Notebook) -> None:
    """A group of the user's is shown as Python shows it; errors of runs show their own lines."""
    notebook.ok(DEFINE.format(bad=2))
    plain = notebook.execute('raise ExceptionGroup("several", [ValueError("one")])')
    assert "ExceptionGroup: several (1 sub-exception)" in plain.stderr + plain.traceback
    notebook.ok(
        "@durably.job\n"
        "def job(step): return list(step.map('label', label, range(4)))\n"
        "def unseen():\n"
        "    with durably.Durably('r.db', jobs=[job]) as app:\n"
        "        app.trigger(job)\n"
        "        app.run_until_idle()"
    )
    of_runs = notebook.execute("unseen()")
    assert of_runs.traceback.startswith("RunsFailedError: ")
    assert "durably/" not in of_runs.traceback + of_runs.stderr
    of_run = notebook.execute("durably.Durably('s.db').run(job)")
    assert of_run.traceback.startswith("RunFailedError: job failed in step 'label'")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_stop_button_keeps_what_is_done(notebook: Notebook, workers: int) -> None:
    """One line says where it has stopped, and the cell run again goes on."""
    notebook.ok(
        "import durably, threading\n"
        "gate = threading.Event()\n"
        "def slow(number):\n"
        "    if number >= 2:\n"
        '        print("inside")\n'
        "        gate.wait(20)\n"
        "    return number\n"
        "def warned(record):\n"
        "    gate.set()\n"
        "    return True\n"
        "import logging\n"
        'logging.getLogger("durably").addFilter(warned)\n'
    )
    call = f'list(durably.map(slow, range(4), db="s.db", max_workers={workers}))'
    stopped = notebook.begin(call).wait_for("inside")
    notebook.interrupt()
    stopped.finish()

    assert stopped.error.startswith("KeyboardInterrupt")
    (shown,) = stopped.traceback.splitlines()
    assert "stopped in step 'slow'; " in shown
    assert shown.endswith(" of its items are kept. Run this cell again to go on.")
    notebook.ok("gate.set()")
    assert notebook.ok(call).result == "[0, 1, 2, 3]"
