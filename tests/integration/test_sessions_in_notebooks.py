"""A session in a notebook: cells are executed again, edited, interrupted; the kernel is killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import durably

pytest.importorskip("ipykernel", reason="the extra `test` is not installed")
pytest.importorskip("jupyter_client", reason="the extra `test` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]

from invariants import check  # noqa: E402 - after the checks of what is installed
from notebooks import Notebook  # noqa: E402

OPEN = """
    import durably
    step = durably.session("churn", "churn.db")
    """
STEPS = """
    for n in range(3):
        print(step.run(f"page-{n}", lambda n=n: print("fetch", n) or n))
    """
FETCHED = "fetch 0\n0\nfetch 1\n1\nfetch 2\n2\n"
STORED = "0\n1\n2\n"


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    with Notebook(tmp_path) as started:
        yield started


def run_of(notebook: Notebook) -> durably.Run[object, object]:
    with durably.Durably(notebook.folder / "churn.db") as app:
        (run,) = app.get_runs()
        return run


def test_a_cell_that_is_executed_again_gets_what_is_stored(notebook: Notebook) -> None:
    """Also when it was edited, where the notebook says which cell it is."""
    notebook.ok(OPEN)
    assert notebook.ok(STEPS, cell_id="a").stdout == FETCHED
    assert notebook.ok(STEPS, cell_id="a").stdout == STORED
    edited = STEPS.replace("range(3)", "range(4)")
    assert notebook.ok(edited, cell_id="a").stdout == STORED + "fetch 3\n3\n"
    assert notebook.ok(edited, cell_id="a").stdout == STORED + "3\n"


def test_without_ids_a_cell_is_its_source(notebook: Notebook) -> None:
    """A front end need not send any."""
    notebook.ok(OPEN)
    assert notebook.ok(STEPS).stdout == FETCHED
    assert notebook.ok(STEPS).stdout == STORED


def test_a_name_used_in_another_cell_or_twice_in_one_is_an_error(notebook: Notebook) -> None:
    """Only one cell has a name, and uses it once each time."""
    notebook.ok(OPEN)
    notebook.ok(STEPS, cell_id="a")
    other = notebook.execute('step.run("page-1", int)', cell_id="b")
    assert other.error.startswith("DuplicateStepError: step 'page-1' was used twice")
    twice = notebook.execute('step.run("x", int); step.run("x", int)', cell_id="c")
    assert twice.error.startswith("DuplicateStepError: step 'x' was used twice")
    assert notebook.ok(STEPS, cell_id="a").stdout == STORED


def test_an_interrupted_cell_goes_on_when_it_is_executed_again(notebook: Notebook) -> None:
    """The stop button ends the step in progress, and nothing else."""
    notebook.ok(OPEN)
    cell = """
        import time
        step.run("before", print, "executed")
        step.run("long", lambda: print("inside") or is_over() or wait())
        """
    # A signal just before a sleep does not end that.
    notebook.ok("is_over = lambda: False\ndef wait(): [time.sleep(0.05) for _ in range(1200)]")
    running = notebook.begin(cell, cell_id="a").wait_for("inside")
    notebook.interrupt()
    assert running.finish().error == "KeyboardInterrupt: "
    notebook.ok("is_over = lambda: True")
    assert notebook.ok(cell, cell_id="a").stdout == "inside\n"
    assert notebook.ok("print(step.get_run().status)").stdout == "running\n"


def test_executing_all_again_after_the_kernel_was_killed(notebook: Notebook) -> None:
    """Every finished step returns from its checkpoint."""
    for expected in (FETCHED, STORED, STORED):
        notebook.restart()
        notebook.ok(OPEN)
        assert notebook.ok(STEPS).stdout == expected
    assert run_of(notebook).attempt == 3
    edited = STEPS.replace("range(3)", "range(2)")
    other = notebook.execute(edited)
    assert "or open the session again if the step is now in another cell" in other.error
    notebook.ok(OPEN)
    assert notebook.ok(edited).stdout == "0\n1\n"


def test_opening_it_again_in_the_same_kernel_takes_over(notebook: Notebook) -> None:
    """The first cell executed again, and the object that a variable still has."""
    notebook.ok(OPEN)
    notebook.ok(STEPS)
    notebook.ok("old = step")
    notebook.ok(OPEN)
    assert notebook.ok(STEPS).stdout == STORED
    old = notebook.execute('old.run("more", int)')
    assert old.error.startswith("StopRun: session 'churn' was opened again in this process")
    assert run_of(notebook).attempt == 1


def test_a_kernel_that_is_shut_down_leaves_it_pending(notebook: Notebook) -> None:
    """Its engine is closed in order."""
    notebook.ok(OPEN)
    notebook.ok(STEPS)
    notebook.shut_down()
    assert run_of(notebook).status == "pending"
    assert check(notebook.folder / "churn.db", is_idle=True) == []


def test_a_map_in_a_cell_goes_on_with_more_items(notebook: Notebook) -> None:
    """Executed again in the same kernel and in another one, it executes what is new."""
    cell = 'print(*step.map("label", lambda x: print("do", x) or x, range({})))'
    notebook.ok(OPEN)
    assert notebook.ok(cell.format(2), cell_id="a").stdout == "do 0\ndo 1\n0 1\n"
    assert notebook.ok(cell.format(3), cell_id="a").stdout == "do 2\n0 1 2\n"
    notebook.restart()
    notebook.ok(OPEN)
    assert notebook.ok(cell.format(4), cell_id="a").stdout == "do 3\n0 1 2 3\n"
