"""The run of a session: when it stops, and which cell of a notebook has used which step."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from storekit import given_owner, given_running

from durably import DatabaseError
from durably.errors import (
    ForkedError,
    OwnershipLost,
    RunCancelled,
    RunInterrupted,
    StopRun,
)
from durably.execution.session_run import CellSteps, SessionRun
from durably.execution.step_log import current_step
from durably.store.sqlite.database import Database


@pytest.fixture
def run(store: Database) -> SessionRun:
    """An open session."""
    return SessionRun(given_running(store, given_owner(store), job="churn"), {}, is_callers=True)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (RunCancelled, "session 'churn' was cancelled; open it again to go on"),
        (RunInterrupted, "the program is ending; session 'churn' goes on when it is opened again"),
        (OwnershipLost, "session 'churn' was recovered by another process, because"),
    ],
)
def test_a_session_that_is_to_stop_says_why(
    run: SessionRun, reason: type[StopRun], said: str
) -> None:
    """It says what to do, as the message of what it raises at its next step."""
    run.check()
    run.stop(reason)
    with pytest.raises(reason) as caught:
        run.check()
    assert type(caught.value) is reason
    assert str(caught.value).startswith(said)


def test_a_session_that_is_closed_says_whether_it_goes_on_elsewhere(run: SessionRun) -> None:
    """The same program may have opened it again, with another object."""
    run.is_over = True
    with pytest.raises(StopRun, match="session 'churn' is closed; open it again to go on"):
        run.check()
    run.is_handed_over = True
    with pytest.raises(StopRun, match="was opened again in this process.*use the new object"):
        run.check()


def test_a_session_whose_file_is_lost_says_so(run: SessionRun) -> None:
    """All runs are interrupted when the file is found lost; that is no end of the program."""
    looks: list[str] = []

    def check_file() -> None:
        looks.append("look")
        raise DatabaseError("the file is gone")

    run.check_file = check_file
    run.check()
    assert not looks
    run.stop(RunInterrupted)
    with pytest.raises(DatabaseError, match="the file is gone"):
        run.check()
    run.is_over = True
    with pytest.raises(StopRun, match="is closed"):
        run.check()
    assert looks == ["look"]


def test_a_forked_child_does_not_use_its_parents_session(run: SessionRun) -> None:
    """The message says what it can do."""
    run.pid += 1
    with pytest.raises(ForkedError, match="session 'churn' is open in the parent of this process"):
        run.check()


def test_a_signal_inside_a_step_is_noted_and_stops_nothing(
    run: SessionRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program handles it and may go on; one outside of steps is its own affair."""
    noted: list[Any] = []
    monkeypatch.setattr(run, "is_callers_signal", lambda exc: isinstance(exc, KeyboardInterrupt))
    stopped = KeyboardInterrupt()
    run.on_interrupt = lambda exc, step: noted.append((exc, step))
    run.keep_callers_signal(stopped)
    monkeypatch.setattr(run, "innermost_step", lambda: "page-1")
    run.keep_callers_signal(ValueError())
    run.keep_callers_signal(stopped)
    run.stop_by_signal(stopped)
    run.on_interrupt = None
    run.keep_callers_signal(stopped)
    assert noted == [(stopped, "page-1")]
    assert run.stop_reason is None
    run.check()


# -- cells -------------------------------------------------------------------------------------


class Notebook:
    """A kernel that executes cells."""

    def __init__(self) -> None:
        self.messages = 0
        self.message: dict[str, Any] = {}
        self.kernel = types.SimpleNamespace(get_parent=lambda: self.message)

    def execute(self, code: str) -> None:
        """Begin to execute a cell."""
        self.messages += 1
        header = {"msg_id": f"m{self.messages}", "msg_type": "execute_request"}
        self.message = {"header": header, "metadata": {}, "content": {"code": code}}

    def wait(self) -> None:
        """Do something else than to execute a cell."""
        self.message = {"header": {"msg_type": "comm_msg"}}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    module = types.SimpleNamespace(get_ipython=lambda: made)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return made


@contextmanager
def inside(step: str) -> Iterator[None]:
    """Be inside the function of a step."""
    token = current_step.set(step)
    try:
        yield
    finally:
        current_step.reset(token)


def test_a_cell_that_is_executed_again_repeats_its_steps(notebook: Notebook) -> None:
    """Again and again; the same name in one execution, or in another cell, is used twice."""
    steps = CellSteps()
    for _ in range(3):
        notebook.execute("cell a")
        for name in ("one", "two"):
            assert steps.is_retried(name) is (notebook.messages > 1)
            steps.note(name)
            assert not steps.is_retried(name)
    notebook.execute("cell b")
    assert not steps.is_retried("one")
    assert not steps.is_retried("three")
    notebook.execute("cell a")
    assert steps.is_retried("two")


def test_outside_of_cells_a_name_is_used_once(notebook: Notebook) -> None:
    """Such as in the callback of a widget, or in a thread; the last use counts."""
    steps = CellSteps()
    notebook.execute("cell a")
    steps.note("one")
    notebook.wait()
    assert not steps.is_retried("one")
    steps.note("one")
    notebook.execute("cell a")
    assert not steps.is_retried("one")


def test_the_cells_of_thousands_of_steps_are_kept_once(notebook: Notebook) -> None:
    """The source of a cell may be long."""
    steps = CellSteps()
    notebook.execute("a cell" * 1000)
    for number in range(10):
        steps.note(f"step-{number}")
    assert len({id(cell) for cell in steps._used_in.values()}) == 1


def test_steps_inside_a_step_are_repeated_as_in_a_job(notebook: Notebook) -> None:
    """One that failed is called again in the same execution of its cell."""
    steps = CellSteps()
    notebook.execute("cell a")
    with inside("outer"):
        steps.note("inner")
        assert not steps.is_retried("inner")
    steps.outer_failed("outer")
    with inside("outer"):
        assert steps.is_retried("inner")
        steps.note("inner")
        assert not steps.is_retried("inner")
