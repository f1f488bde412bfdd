"""What is shown of an error that nothing handles: by Python's hooks, and by a shell of IPython."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import durably
from durably._platform import unhandled
from durably.errors import ItemsFailedError, RunFailedError, RunsFailedError

TERMINAL, THREAD = "sys", "threading"


class Shell:
    """A shell of IPython, as far as durably uses one."""

    colors = "nocolor"

    def __init__(self) -> None:
        self.custom_exceptions: tuple[type, ...] = ()
        self.custom: Any = None
        self.shown: list[Any] = []
        self.InteractiveTB = types.SimpleNamespace(
            tb=None, structured_traceback=lambda kind, exc, traceback: ["IPython's", repr(exc)]
        )
        self.compile = types.SimpleNamespace()
        self.history_manager = types.SimpleNamespace(input_hist_raw=["", "1"])
        self.events = types.SimpleNamespace(register=self._forget, unregister=self._forget)

    def _forget(self, event: str, callback: Any) -> None:
        """No cell begins or ends in this shell."""

    def set_custom_exc(self, kinds: tuple[type, ...], handler: Any) -> None:
        self.custom_exceptions, self.custom = kinds, handler

    def showtraceback(self, info: Any, tb_offset: int | None = None) -> None:
        self.shown.append(("by IPython", info[1], tb_offset))

    def _showtraceback(self, kind: Any, exc: BaseException, lines: list[str]) -> None:
        self.shown.append(lines)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own hooks, no shell, and logging that is not configured."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        monkeypatch.delattr(sys, name, raising=False)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell()
    module = types.SimpleNamespace(get_ipython=lambda: made)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return made


@pytest.fixture
def silenced() -> Iterator[None]:
    """Logging that goes nowhere, so that the errors show the frames themselves."""
    log, handler = logging.getLogger("durably"), logging.NullHandler()
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@durably.job
def parse(step: durably.StepContext, text: str) -> int:
    step.run("first", int, "1")
    return step.run("second", to_number, text)


def to_number(text: str) -> int:
    if text == "{}":
        raise KeyError(text)
    return int(text)


def run_failed(folder: Path) -> RunFailedError:
    with durably.Durably(folder / "x.db", jobs=[parse]) as app:
        with pytest.raises(RunFailedError) as caught:
            app.run(parse, "one", key="k")
        return caught.value


def runs_failed(folder: Path) -> RunsFailedError:
    app = durably.Durably(folder / "x.db", jobs=[parse], max_workers=1)
    with pytest.raises(RunsFailedError) as caught, app:
        for text in ("one", "two", "{}"):
            app.trigger(parse, text)
    return caught.value


def items_failed(folder: Path) -> ItemsFailedError:
    with durably.session("s", folder / "x.db") as step:
        with pytest.raises(ItemsFailedError) as caught:
            step.map("parse", to_number, ["1", "one", "{}", "two"])
        return caught.value


def printed(
    exc: BaseException, capsys: pytest.CaptureFixture[str], hook: str = TERMINAL
) -> list[str]:
    """The lines that Python prints for an error that nothing handles, without its marks."""
    capsys.readouterr()
    if hook == TERMINAL:
        sys.excepthook(type(exc), exc, exc.__traceback__)
    else:
        thread = threading.Thread(name="mine")
        args = (type(exc), exc, exc.__traceback__, thread)
        threading.excepthook(threading.ExceptHookArgs(args))
    return [line for line in capsys.readouterr().err.splitlines() if line.strip(" ^~")]


@pytest.mark.parametrize("hook", [TERMINAL, THREAD])
@pytest.mark.parametrize("is_named", [False, True])
def test_the_report_of_a_failed_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
    is_named: bool,
) -> None:
    """The job and where it has failed, the frames of the user, the error, the next move."""
    error = run_failed(tmp_path)
    path = error.run._engine.path
    monkeypatch.setenv("DURABLY_DB", path if is_named else "")
    lines = printed(error, capsys, hook)
    if hook == THREAD:
        assert lines.pop(0) == "Exception in thread mine:"
    assert lines[0].startswith("parse k failed in step 'second' after 1 completed step (run …")
    frames = [line for line in lines if line.startswith("  File")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["parse", "to_number"]
    assert all(__file__ in frame for frame in frames)
    db = "" if is_named else f" --db {path}"
    assert lines[-4] == "ValueError: invalid literal for int() with base 10: 'one'"
    assert lines[-3].startswith("Completed steps are kept. Fix the cause and ")
    assert lines[-3].endswith(": it continues at 'second'.")
    assert [" ".join(line.split()) for line in lines[-2:]] == [
        f"Or put it back to pending: durably retry {error.run.id[-8:]}{db}",
        (
            "If an earlier step read the bad input and it was fixed since: "
            f"durably redo {error.run.id[-8:]} --from first{db}"
        ),
    ]


def test_the_report_of_runs_that_nobody_has_seen_to_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], silenced: None
) -> None:
    """It has a line, and the newest failure of each kind with its frames."""
    error = runs_failed(tmp_path)
    lines = printed(error, capsys)
    assert lines[0] == str(error)
    reports = [line for line in lines if line.startswith("parse failed in step 'second'")]
    assert len(reports) == 2  # of three
    newest = error.runs[0]
    assert f"(run …{newest.id[-8:]})" in reports[0]
    assert sum(line == "KeyError: '{}'" for line in lines) == 1
    assert sum(line.startswith("ValueError: invalid literal") for line in lines) == 1
    assert "'two'" in "".join(lines[1:])


def test_failures_that_the_log_has_printed_are_not_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where logging is not configured, Python has printed their frames."""
    monkeypatch.setattr(logging.getLogger("durably"), "propagate", False)
    error = runs_failed(tmp_path)
    assert "in to_number" in capsys.readouterr().err
    assert printed(error, capsys) == [str(error)]


def test_the_report_of_failed_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that counts them, the first of each kind, the next move."""
    error = items_failed(tmp_path)
    error.add_note("Fix them,\nand run it again.")
    lines = printed(error, capsys)
    assert lines[0] == (
        "ItemsFailedError: 3 of 4 items failed: 2 x ValueError: invalid literal for int() with "
        "base 10: 'one' (1, 3), 1 x KeyError: '{}' (2)"
    )
    assert lines.count("KeyError: '{}'") == 1
    assert lines.count("ValueError: invalid literal for int() with base 10: 'one'") == 1
    assert not any("'two'" in line for line in lines)
    assert lines[-2:] == ["Fix them,", "and run it again."]


def test_a_part_of_an_error_of_several_is_one_of_them(tmp_path: Path) -> None:
    """``except*`` splits the group into parts of its class."""
    error = items_failed(tmp_path)
    part = error.subgroup(KeyError)
    assert type(part) is ItemsFailedError
    assert [repr(each) for each in part.exceptions] == ["KeyError('{}')"]
    assert str(part) == str(error)
    runs = runs_failed(tmp_path)
    part = runs.subgroup(lambda exc: getattr(exc, "run", None) == runs.runs[1])
    assert type(part) is RunsFailedError
    assert part.runs == runs.runs[1:2]


def test_a_ctrl_c_is_one_line_that_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it ends a script of durably's; another one has Python's traceback."""
    unhandled.install_hooks()
    stopped = KeyboardInterrupt()
    unhandled.add_stop_note(stopped, "stopped in step 'a'; start the script again to go on")
    unhandled.add_stop_note(stopped, "stopped elsewhere")  # the inner place has said it
    assert stopped.__notes__ == ["stopped in step 'a'; start the script again to go on"]
    assert len(printed(stopped, capsys)) == 2
    unhandled.show_stop_alone(stopped)
    assert printed(stopped, capsys) == [
        "KeyboardInterrupt: stopped in step 'a'; start the script again to go on"
    ]
    ended = SystemExit(3)
    unhandled.add_stop_note(ended, "stopped in step 'a'")
    unhandled.show_stop_alone(ended)
    assert vars(ended).keys() == {"__notes__"}


def test_a_thread_that_has_ended_without_an_error_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that was there before gets errors without durably's frames."""
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    error = run_failed(tmp_path)
    for exc in (None, error):
        threading.excepthook(threading.ExceptHookArgs((type(error), exc, None, None)))
    (args,) = seen
    assert args.exc_value is error
    files = [frame.filename for frame in traceback.extract_tb(args.exc_traceback)]
    assert set(files) == {__file__}


# -- a shell of IPython ------------------------------------------------------------------------


def test_a_shell_shows_groups_of_durably_as_they_render_themselves(
    tmp_path: Path, shell: Shell, silenced: None
) -> None:
    """It asks no group itself. Others are shown as ever, and a handler of the user's stays."""
    unhandled.install_hooks()
    assert shell.custom_exceptions == (BaseExceptionGroup,)
    items = items_failed(tmp_path)
    assert shell.custom(shell, type(items), items, items.__traceback__) == shell.shown[0]
    lines = shell.shown[0]
    assert lines[0].startswith("ItemsFailedError: 3 of 4 items failed")
    assert "KeyError: '{}'" in lines
    # A debugger begins in the function of the first of them.
    assert sys.last_value is items.exceptions[0]
    frame = shell.InteractiveTB.tb
    while frame.tb_next is not None:
        frame = frame.tb_next
    assert frame.tb_frame.f_code.co_name == "to_number"

    runs = runs_failed(tmp_path)
    shell.custom(shell, type(runs), runs, runs.__traceback__)
    lines = shell.shown[1]
    assert lines[0] == f"RunsFailedError: {runs}"
    assert "KeyError: '{}'" in lines

    group = ExceptionGroup("the user's", [ValueError()])
    assert shell.custom(shell, type(group), group, None, tb_offset=1) is None
    assert shell.shown[2] == ("by IPython", group, 1)

    shell.custom_exceptions = (KeyError,)
    unhandled.install_hooks()
    assert shell.custom_exceptions == (KeyError,)


def test_a_shell_shows_the_line_and_the_frames_of_a_failed_run(
    tmp_path: Path, shell: Shell
) -> None:
    """In its colours; a debugger begins where the job has failed."""
    error = run_failed(tmp_path)
    sys.last_value = error
    lines = error._render_traceback_()
    assert lines[0] == f"RunFailedError: {error}"
    assert lines[1] == ""
    assert "in to_number" in lines[-4]
    assert lines[-1].endswith(": it continues at 'second'.")
    assert isinstance(sys.last_value, ValueError)
    assert sys.last_type is ValueError
    shell.colors = "Linux"
    assert error._render_traceback_()[0] == f"\x1b[31mRunFailedError\x1b[0m: {error}"
    bare = RunFailedError(attrs.evolve(error.run, error=None))
    shell.colors = "nocolor"
    assert bare._render_traceback_() == [f"RunFailedError: {bare}", "", *bare.__notes__]


def test_a_shell_shows_a_stop_as_one_line_and_other_errors_by_itself(shell: Shell) -> None:
    """It shows none of durably's frames."""
    stopped = KeyboardInterrupt()
    unhandled.add_stop_note(stopped, "stopped in step 'a'")
    assert stopped._render_traceback_() == ["KeyboardInterrupt: stopped in step 'a'"]
    error = durably.ValidationError("wrong")
    assert unhandled.rendered(error) == ["IPython's", repr(error)]
    del shell.InteractiveTB
    assert unhandled.rendered(error) == ["durably.ValidationError: wrong"]
