"""The detection of an interactive session, and of the cell of it that is executed."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from notebooks import Notebook

from durably._platform.interactive import Cell, executing_cell, is_interactive, is_ipython


def request(code: str = "1", *, message: str = "m1", cell: str | None = None) -> dict[str, Any]:
    """What a front end sends to execute a cell."""
    return {
        "header": {"msg_id": message, "msg_type": "execute_request"},
        "metadata": {} if cell is None else {"cellId": cell},
        "content": {"code": code},
    }


class Terminal:
    """A shell of IPython in a terminal, as far as durably reads it."""

    def __init__(self, *inputs: str) -> None:
        self.history_manager = types.SimpleNamespace(input_hist_raw=["", *inputs])


class Kernel:
    """A shell of a kernel that answers a message."""

    def __init__(self, message: object) -> None:
        self.history_manager = types.SimpleNamespace(input_hist_raw=["", "1"])
        self.kernel = types.SimpleNamespace(get_parent=lambda: message)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell and no prompt, whatever the tests run in."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make something the shell of this process."""

    def use(shell: object) -> None:
        module = types.SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", module)

    return use


def test_a_script_is_not_interactive() -> None:
    """Without a prompt and a shell there is no session and no cell."""
    assert not is_interactive()
    assert not is_ipython()
    assert executing_cell() is None


def test_a_prompt_is_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own prompt is a session, without cells."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert is_interactive()
    assert not is_ipython()
    assert executing_cell() is None


@pytest.mark.parametrize(("options", "answer"), [(["-i"], "True"), ([], "False")])
def test_a_script_that_ends_at_a_prompt_is_interactive(options: list[str], answer: str) -> None:
    """``python -i`` is a session from its first line; a script that is piped in is none."""
    code = "from durably._platform.interactive import is_interactive; print(is_interactive())"
    command = [sys.executable, *options, "-c", code]
    ended = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert ended.stdout.split()[0] == answer


def test_ipython_that_is_only_imported_is_not_interactive(use: Any) -> None:
    """A program that imports IPython, for its display say, has no shell."""
    use(None)
    assert not is_interactive()
    assert executing_cell() is None


def test_nothing_is_imported() -> None:
    """Asking does not import IPython."""
    code = (
        "import sys; from durably._platform import interactive as i; "
        "i.is_interactive(); i.executing_cell(); print('IPython' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_a_terminal_of_ipython(use: Any) -> None:
    """An input is known by its text; each input is an execution."""
    use(Terminal())
    assert is_interactive()
    assert is_ipython()
    assert executing_cell() is None
    use(Terminal("a = 1"))
    first = executing_cell()
    assert first is not None
    assert first == executing_cell()
    use(Terminal("a = 1", "b = 2"))
    other = executing_cell()
    assert other is not None
    assert (first.cell == other.cell, first.execution == other.execution) == (False, False)
    use(Terminal("a = 1", "b = 2", "a = 1"))
    again = executing_cell()
    assert again is not None
    assert (first.cell == again.cell, first.execution == again.execution) == (True, False)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (request("a", cell="x"), request("a edited", message="m2", cell="x"), True),
        (request("a", cell="x"), request("a", message="m2", cell="y"), False),
        (request("a"), request("a", message="m2"), True),
        (request("a"), request("b", message="m2"), False),
        (request("x"), request("a", message="m2", cell="x"), False),
    ],
    ids=["edited", "twin", "no id", "no id edited", "id like a source"],
)
def test_a_cell_of_a_notebook(use: Any, one: object, other: object, is_same: bool) -> None:
    """A cell is known by its id, and by its source if the front end sends none."""
    use(Kernel(one))
    first = executing_cell()
    use(Kernel(other))
    second = executing_cell()
    assert first is not None
    assert second is not None
    assert (first.cell == second.cell) is is_same
    assert first.execution != second.execution


@pytest.mark.parametrize(
    "message",
    [
        {"header": {"msg_id": "m", "msg_type": "comm_msg"}, "content": {"data": {}}},
        {"header": {"msg_id": "m", "msg_type": "complete_request"}, "content": {"code": "a."}},
        {"header": {}},
    ],
    ids=["widget", "completion", "unknown"],
)
def test_what_is_no_cell(use: Any, message: object) -> None:
    """What a kernel does for its front end beside cells belongs to none of them."""
    use(Kernel(message))
    assert executing_cell() is None


@pytest.mark.parametrize("message", [{}, None, "text"])
def test_a_kernel_that_answers_nobody(use: Any, message: object) -> None:
    """Without a message of a front end the history says what is executed."""
    use(Kernel(message))
    assert executing_cell() == Cell("source 1", "input 1")


@pytest.mark.slow
def test_a_real_kernel(tmp_path: Path) -> None:
    """One execution of a cell has one name, also in a thread; the next execution has another."""
    both = """
        import threading
        from durably._platform.interactive import executing_cell, is_interactive
        seen = globals().setdefault("seen", [])
        def read():
            seen.append(executing_cell())
        thread = threading.Thread(target=read); thread.start(); thread.join(); read()
        """
    with Notebook(tmp_path) as notebook:
        for cell in ("one", "one", "two"):
            assert notebook.run(both, cell_id=cell) == ""
        notebook.run(both)
        notebook.run(both)
        assert notebook.run("is_interactive(), __name__") == "(True, '__main__')"
        assert notebook.run("[one == other for one, other in zip(seen[::2], seen[1::2])]") == (
            "[True, True, True, True, True]"
        )
        assert notebook.run("len({cell.execution for cell in seen})") == "5"
        assert notebook.run(
            "cells = [c.cell for c in seen[::2]]; [cells.index(c) for c in cells]"
        ) == ("[0, 0, 2, 3, 3]")
        notebook.restart()
        assert notebook.run("'seen' in globals()") == "False"
